"""The kinds of items, and sets of items that are removed together."""

from __future__ import annotations

from typing import Literal

Level = Literal["task", "support", "query"]
LEVELS: tuple[Level, ...] = ("task", "support", "query")
Removal = tuple[int, ...]
"""Items of one level that are removed together."""

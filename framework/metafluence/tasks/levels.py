"""Tasks and their weights: everything the objective sums over, stacked into tensors.

A removed item is an item of weight zero (one idea: every item is a weight); nothing is ever cut out of a tensor.
"""

from __future__ import annotations

from typing import Literal

Level = Literal["task", "support", "query"]
LEVELS: tuple[Level, ...] = ("task", "support", "query")
Removal = tuple[int, ...]
"""Items of one level that are removed together."""

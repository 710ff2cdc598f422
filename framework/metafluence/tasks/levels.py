"""The kinds of items, and sets of items that are removed together."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

Level = Literal["task", "support", "query", "image", "class"]
LEVELS: tuple[Level, ...] = ("task", "support", "query", "image", "class")
WEIGHED: tuple[Level, ...] = ("task", "support", "query")
"""The levels whose items have weights of their own; an image or a class of the data set is a set of these items."""
PLACES: dict[Level, tuple[Level, ...]] = {"image": ("support", "query"), "class": ("task",)}
"""The levels at which images and classes have their places."""
ITEM_NAMES: dict[Level, str] = {
    "task": "tasks",
    "support": "support instances",
    "query": "query instances",
    "image": "images",
    "class": "classes",
}
"""What items of a level are called."""
Removal = tuple[int, ...]
"""Items of one level that are removed together."""


def weighed(levels: Iterable[Level]) -> tuple[Level, ...]:
    """The levels with weights of their own of which the items of these levels are made, each once."""
    return tuple(dict.fromkeys(inner for level in levels for inner in PLACES.get(level, (level,))))

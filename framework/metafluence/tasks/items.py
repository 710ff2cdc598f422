"""Items by number: what users and methods name is checked and written the same way here, and nowhere else."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from metafluence.errors import InputError
from metafluence.tasks.levels import LEVELS, Level, Removal


def check_level(level: Any) -> Level:
    """A level, as it is given. Raises InputError for anything else."""
    if level not in LEVELS:
        raise InputError(f"There is no level {level!r}. Give one of {', '.join(LEVELS)}.")
    return level


def check_items(items: Any, count: int, level: Level) -> Removal:
    """Whole numbers from 0 to count - 1, in the order given, each once.

    `items` is one number, or a list, tuple, range, array or tensor of them; the level has `count` items. Raises
    InputError where a number is not whole, negative, a truth value or not below `count`.
    """
    listed = _listed(items)
    for item in listed:
        if isinstance(item, bool) or not isinstance(item, int):
            raise InputError(
                f"{item!r} names no {level} item: items are whole numbers from 0 to {count - 1}. "
                "For a mask of truth values give mask.nonzero()."
            )
        if not 0 <= item < count:
            raise InputError(f"There is no {level} item {item}: give one from 0 to {count - 1}.")
    return tuple(dict.fromkeys(listed))


def check_removals(removals: Any, count: int, level: Level, nothing: bool = False) -> tuple[Removal, ...]:
    """A list of removals, each a tuple of items; a bare number is a removal of one item. With `nothing` a removal may
    be empty.

    Raises:
        InputError: there is no removal, one removes nothing, or `check_items` refuses an item.
    """
    if isinstance(removals, int | str) or not isinstance(removals, Sequence | Tensor):
        raise InputError(f"Removals are {removals!r}; give a list of tuples of {level} items, as [(0,)].")
    if len(removals) == 0:
        raise InputError("There is nothing to remove: the list of removals is empty. Give one or more, as [(0,)].")
    found = tuple(check_items(removal, count, level) for removal in removals)
    for place, removal in enumerate(found):
        if not (removal or nothing):
            raise InputError(f"Removal {place} names no {level} item. Leave it out, or give it one or more items.")
    return found


def count_of(share: float, items: int) -> int:
    """How many of `items` items a share of them is: at least one, and never all."""
    return min(max(1, round(share * items)), items - 1)


def _listed(items: Any) -> list[Any]:
    if isinstance(items, Tensor):
        items = items.detach().cpu().reshape(-1).tolist()
    elif hasattr(items, "tolist"):  # NumPy's arrays and numbers
        items = items.tolist()
    if isinstance(items, Sequence) and not isinstance(items, str):
        return [item.item() if hasattr(item, "item") else item for item in items]
    return [items]

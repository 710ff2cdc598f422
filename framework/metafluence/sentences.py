"""Sentences that are the same but for their numbers, said once; and long lists, folded."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import TypeVar

Who = TypeVar("Who")
FEW = 10
"""So many sentences of one kind are shown; the others are folded."""
GROUPS = 4
"""Of so many variations the findings are shown; those of the others are folded."""
_NUMBER = re.compile(r"(?<![\w.-])[-+−]?\d+(?:\.\d+)?(?:e[-+]?\d+)?(?!\w)")


def alike(said: Iterable[tuple[str, Who]]) -> list[tuple[str, list[Who]]]:
    """Sentences with who said them: each once, with all who said it, in the order in which it first stands.

    Where only numbers differ, the smallest and the largest stand in their place.
    """
    found: dict[str, list[tuple[str, Who]]] = {}
    for text, who in said:
        found.setdefault(_NUMBER.sub("#", text), []).append((text, who))
    return [(_joined([text for text, _ in some]), [who for _, who in some]) for some in found.values()]


def folded(items: Sequence[Who], few: int = FEW) -> tuple[list[Who], list[Who]]:
    """The first few, and the rest. A single one more is not worth the fold."""
    count = few if len(items) > few + 1 else len(items)
    return list(items[:count]), list(items[count:])


def _joined(texts: Sequence[str]) -> str:
    numbers = zip(*(_NUMBER.findall(text) for text in texts), strict=True)
    ranges = iter([_range(column) for column in numbers])
    return _NUMBER.sub(lambda _: next(ranges), texts[0])


def _range(numbers: Sequence[str]) -> str:
    low, high = (pick(numbers, key=_value) for pick in (min, max))
    return low if _value(low) == _value(high) else f"{low} to {high}"


def _value(number: str) -> float:
    return float(number.replace("−", "-"))

"""Sentences that are the same but for their numbers, said once."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import TypeVar

Who = TypeVar("Who")
_NUMBER = re.compile(r"(?<![\w.-])[-+−]?\d+(?:\.\d+)?(?:e[-+]?\d+)?(?!\w)")


def alike(said: Iterable[tuple[str, Who]]) -> list[tuple[str, list[Who]]]:
    """Sentences with who said them: each once, with all who said it, in the order in which it first stands.

    Where only numbers differ, the smallest and the largest stand in their place.
    """
    found: dict[str, list[tuple[str, Who]]] = {}
    for text, who in said:
        found.setdefault(_NUMBER.sub("#", text), []).append((text, who))
    return [(_joined([text for text, _ in some]), [who for _, who in some]) for some in found.values()]


def _joined(texts: Sequence[str]) -> str:
    numbers = zip(*(_NUMBER.findall(text) for text in texts), strict=True)
    ranges = iter([_range(column) for column in numbers])
    return _NUMBER.sub(lambda _: next(ranges), texts[0])


def _range(numbers: Sequence[str]) -> str:
    low, high = (pick(numbers, key=_value) for pick in (min, max))
    return low if _value(low) == _value(high) else f"{low} to {high}"


def _value(number: str) -> float:
    return float(number.replace("−", "-"))

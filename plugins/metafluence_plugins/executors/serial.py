"""One item after another, in this process."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from metafluence import Executor, Item, Result, warn


@dataclass(frozen=True)
class Serial(Executor):
    """The simplest executor, and the easiest to debug."""

    def map(
        self, function: Callable[[Item], Result], items: Sequence[Item], notice: Callable[[str], None] = warn
    ) -> Iterator[tuple[int, Result]]:
        for index, item in enumerate(items):
            yield index, function(item)

"""Executors: where independent pieces of work run."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


class Executor(ABC):
    """A frozen dataclass that runs one function over many items."""

    @abstractmethod
    def map(self, function: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[tuple[int, Result]]:
        """Yield (index, result) as each is finished, in any order. The first exception ends it."""

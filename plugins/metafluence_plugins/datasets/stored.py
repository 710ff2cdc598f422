"""Tasks that were saved in folders."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from metafluence import DataError, Dataset, Episodes, InputError, Split, TaskSet, open_tasks


@dataclass(frozen=True)
class Stored(Dataset):
    """The tasks of three folders of `mf.save_tasks`, whose inputs stay on disk, however many there are.

    The first episodes.train, episodes.validation and episodes.test tasks are taken, in order, whatever the seed; their
    numbers of classes and instances are their own.
    """

    train: str
    validation: str
    test: str

    IDLE: ClassVar = ("way", "shot", "query", "split", "shares")

    def tasks(self, episodes: Episodes, generator: torch.Generator, dtype: torch.dtype) -> Split:
        for name in self.IDLE:
            if getattr(episodes, name) != getattr(Episodes(), name):
                raise InputError(f"Stored tasks are drawn already, so episodes.{name} says nothing here. Leave it out.")
        return Split(*(self._first(name, getattr(episodes, name), dtype) for name in ("train", "validation", "test")))

    def _first(self, name: str, count: int, dtype: torch.dtype) -> TaskSet:
        try:
            return open_tasks(getattr(self, name), count).to(dtype=dtype)
        except (DataError, InputError) as error:
            raise type(error)(f"{name}: {error} episodes.{name} says how many are taken.") from error

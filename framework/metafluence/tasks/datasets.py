"""What a data set is: something tasks are drawn from, and what its publisher offers for download."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path

import torch

from metafluence.registry import Component
from metafluence.tasks.episodes import Episodes, Labelled, Split, sample


@dataclass(frozen=True)
class Source:
    """A file as its publisher offers it: the address, where it goes below the data folder, and its MD5 if known."""

    url: str
    path: str
    md5: str | None = None


class Dataset(Component, ABC):
    """A frozen dataclass whose fields say where the data are and how to read them.

    Example:
        >>> import torch
        >>> from metafluence.tasks import Episodes
        >>> from metafluence_plugins.datasets.digits import Digits
        >>> generator = torch.Generator().manual_seed(0)
        >>> split = Digits().tasks(Episodes(train=4, validation=2, test=2, way=2), generator, torch.float64)
        >>> len(split.train), len(split.validation), len(split.test)
        (4, 2, 2)
    """

    @abstractmethod
    def tasks(self, episodes: Episodes, generator: torch.Generator, dtype: torch.dtype) -> Split:
        """Draw the three sets of tasks, a function of the generator's state.

        Raises DataError naming the files looked for and what to do, and InputError where `episodes` asks for what the
        data set has not got.
        """

    def sources(self) -> tuple[Source, ...]:
        """What `metafluence data fetch` downloads. Raises InputError where the data cannot be had from an address."""
        return ()


class LabelledDataset(Dataset):
    """A data set of classes, from which few-shot classification tasks are drawn."""

    @abstractmethod
    def load(self) -> Labelled:
        """Read everything. Raises DataError naming the files looked for and what to do."""

    def tasks(self, episodes: Episodes, generator: torch.Generator, dtype: torch.dtype) -> Split:
        return sample(self.load(), episodes, generator, dtype)


def data_root(given: str | Path | None = None) -> Path:
    """The folder of data sets: the one given, else $METAFLUENCE_DATA, else `data` in the working folder."""
    return Path(given or os.environ.get("METAFLUENCE_DATA") or "data")

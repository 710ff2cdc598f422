"""Inputs of tasks that stay in a file: the rows asked for are read, nothing else."""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from metafluence.errors import DataError, InputError

PART_BYTES = 2**24
"""Read or written together where all rows are gone through."""


@dataclass(frozen=True, eq=False)
class StoredInputs:
    """Stands for a tensor [N, n, ...] whose rows lie in a file, one after the other.

    stored: the type in the file; dtype: the one that rows are read as. sums [N] (int64): a checksum of each row.
    """

    file: Path
    shape: torch.Size
    stored: torch.dtype
    sums: Tensor
    dtype: torch.dtype
    device: torch.device = torch.device("cpu")

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Any) -> Tensor:
        """As of a tensor, but a copy. Raises DataError where the file is not what was written."""
        first, *rest = index if isinstance(index, tuple) else (index,)
        numbers = torch.arange(len(self))[first.cpu() if isinstance(first, Tensor) else first]
        rows = self._read(numbers.flatten().tolist()).reshape(*numbers.shape, *self.shape[1:])
        return rows[(*[slice(None)] * numbers.dim(), *rest)].to(dtype=self.dtype, device=self.device)

    def _read(self, numbers: list[int]) -> Tensor:
        rows = torch.empty(len(numbers), *self.shape[1:], dtype=self.stored)
        size, sums = self.row_bytes, self.sums.tolist()
        places = rows.flatten().view(torch.uint8).numpy().data
        try:
            with self.file.open("rb", buffering=0) as file:
                for i, number in enumerate(numbers):
                    place = places[i * size : (i + 1) * size]
                    file.seek(number * size)
                    if file.readinto(place) != size or zlib.crc32(place) != sums[number]:
                        raise DataError(
                            f"{self.file} has other values at task {number} than were written: it is damaged or was "
                            "changed. Save the tasks again with mf.save_tasks."
                        )
        except OSError as error:
            raise DataError(
                f"{self.file} cannot be read ({error}). Save the tasks again with mf.save_tasks."
            ) from error
        return rows

    @property
    def row_bytes(self) -> int:
        """Of one row in the file."""
        return math.prod(self.shape[1:]) * self.stored.itemsize

    def first(self, count: int) -> StoredInputs:
        """The first rows alone."""
        return replace(self, shape=torch.Size([count, *self.shape[1:]]), sums=self.sums[:count])

    def parts(self) -> Iterator[Tensor]:
        """All rows in order, a few at a time."""
        step = max(1, PART_BYTES // max(1, self.row_bytes))
        for start in range(0, len(self), step):
            yield self[start : start + step]

    def to(self, dtype: torch.dtype | None = None, device: torch.device | str | None = None) -> StoredInputs:
        """The same rows, read in another precision or to another device."""
        kind, where = dtype or self.dtype, self.device if device is None else torch.device(device)
        return self if (kind, where) == (self.dtype, self.device) else replace(self, dtype=kind, device=where)

    def __getattr__(self, name: str) -> Any:
        """What else a tensor has would take all rows at once. Raises InputError."""
        raise AttributeError(name) if name.startswith("_") else _refusal(name)

    @classmethod
    def __torch_function__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """So would a function of torch. Raises InputError."""
        raise _refusal(function.__name__)

    def detach(self) -> StoredInputs:
        return self

    def is_floating_point(self) -> bool:
        return self.dtype.is_floating_point


def _refusal(what: str) -> InputError:
    return InputError(
        f"This needs the inputs of all tasks at once ({what}), and they are kept on disk. Give tasks[:], which reads "
        "them all, if they fit into memory."
    )

"""Several processes that compute one problem together, each its share of the tasks (`torch.distributed`).

Every process runs the same program. What is a sum over tasks, or a result per task, is made of the shares of all
processes by a `TaskShare`; all else each process computes for itself from the same numbers.
"""

from __future__ import annotations

import atexit
import hashlib
import os
import pickle
import re
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from metafluence.errors import ExecutorError, InputError, in_words
from metafluence.runtime.storage import write_atomically

CLOSE = 1e-5
"""By how much of their size numbers that processes ask with may differ: by rounding, and not by more."""


class Ranks:
    """The processes that compute together, as one of them sees them.

    rank: the number of this process, from 0. count: how many there are. Process 0 keeps and prints the results.
    """

    def __init__(self, rank: int = 0, count: int = 1) -> None:
        self.rank, self.count = rank, count
        self._lost: ExecutorError | None = None

    @property
    def first(self) -> bool:
        """Whether this is the process that keeps and prints the results."""
        return self.rank == 0

    def folder(self, folder: str | Path) -> Path:
        """Where this process keeps its work: process 0 in `folder`, any other in a copy that goes when it ends.

        So all processes find the same work, and only process 0 writes to `folder`. All of them have to call it.
        """
        folder = Path(folder)
        if self.count == 1:
            return folder
        inside = [p.relative_to(folder) for p in sorted(folder.rglob("*")) if p.is_file()] if self.first else []
        own = folder
        if not self.first:
            self._temporary = tempfile.TemporaryDirectory(prefix="metafluence-")
            own = Path(self._temporary.name)
        for file in self._of_first(inside):
            content = self._of_first((folder / file).read_bytes() if self.first else b"")
            if not self.first:
                write_atomically(own / file, content)
        return own

    def check(self) -> None:
        """Raises the ExecutorError by which this process lost another, if it did."""
        if self._lost is not None:
            raise self._lost

    def agree(self, name: str, asked: Sequence[Tensor], failure: Exception | None) -> None:
        """Go on where all processes compute the same: `name` exactly, and from the numbers `asked`, up to rounding.

        failure: the error of this process, if it has one; it is raised in all of them. Raises ExecutorError where
        another process is lost, or computes something else.
        """
        self.check()
        what = name.partition(" ")[0]
        number = int.from_bytes(hashlib.sha256(name.encode()).digest()[:6], "big")
        sums = [(float(a.double().sum()), float(a.double().abs().sum())) for a in asked]
        weighed = [sum((i + 1) * both[k] for i, both in enumerate(sums)) for k in (0, 1)]
        head = torch.tensor([number, failure is not None, *weighed], dtype=torch.float64)
        heads = [torch.empty_like(head) for _ in range(self.count)]
        self._call(lambda: dist.all_gather(heads, head))
        if any(not _alike(head, other) for other in heads):
            self._lost = ExecutorError(
                f"Process {self.rank} of {self.count} computes something else ({what}) than another, "
                "so that their shares cannot be put together. All must run one program with the same data and seeds; "
                "look for an error in another process, and for code that only some of them run."
            )
            raise self._lost
        if any(bool(other[1]) for other in heads):
            found: list[Any] = [None] * self.count
            self._call(lambda: dist.all_gather_object(found, _portable(failure)))
            raise pickle.loads(next(one for one in found if one is not None)) from failure

    def add(self, part: Tensor) -> Tensor:
        """The sum over processes, in place."""
        self._call(lambda: dist.all_reduce(part))
        return part

    def _of_first(self, value: Any) -> Any:
        """The value that process 0 has."""
        held = [value]
        self._call(lambda: dist.broadcast_object_list(held, src=0))
        return held[0]

    def _call(self, exchange: Callable[[], object]) -> None:
        try:
            exchange()
        except RuntimeError as error:
            self._lost = ExecutorError(
                f"Process {self.rank} of {self.count} lost another, which ended or does not answer "
                f"({_reason(error)}). Its own message says why; a common reason is a lack of memory. Start all of "
                "them again; a study goes on from what is finished."
            )
            raise self._lost from error


@dataclass(frozen=True)
class TaskShare:
    """The tasks that this process computes: `where`, a slice of `count`; all of them in a program of one process.

    Fewer tasks than processes are not cut: each process computes all, and the results of process 0 are taken.
    """

    count: int
    where: slice
    _ranks: Ranks
    _name: str = ""
    _asked: tuple[Tensor, ...] = ()

    @classmethod
    def of(cls, count: int, name: Callable[[], str], *asked: Tensor) -> TaskShare:
        """This process's share of `count` tasks. name and asked: what is computed, which all processes must agree on.

        name: is compared exactly; asked: up to rounding.
        """
        ranks = joined()
        if ranks.count == 1:
            return cls(count, slice(0, count), ranks)
        if count < ranks.count:
            return cls(count, slice(0, count), ranks, name(), asked)
        starts = [rank * count // ranks.count for rank in (ranks.rank, ranks.rank + 1)]
        return cls(count, slice(*starts), ranks, name(), asked)

    @property
    def size(self) -> int:
        """How many tasks this process computes."""
        return self.where.stop - self.where.start

    def slices(self, size: int) -> Iterator[slice]:
        """Consecutive slices of at most `size` of this share's tasks."""
        for start in range(self.where.start, self.where.stop, size):
            yield slice(start, min(start + size, self.where.stop))

    def sum(self, what: str, make: Callable[[], Tensor], *asked: Tensor) -> Tensor:
        """The sum over all tasks of what `make` sums over this share; it makes a tensor of its own.

        what, asked: what is summed, and what it depends on, which all processes must agree on.
        """
        (part,) = self._made(what, lambda: [make()], asked)
        return part if self._ranks.count == 1 else self._added(part)

    def gather(self, what: str, make: Callable[[], Tensor], *asked: Tensor) -> Tensor:
        """The rows of all tasks, of which `make` makes those of this share, in order."""
        return self.gather_each(what, lambda: [make()], *asked)[0]

    def gather_each(self, what: str, make: Callable[[], Sequence[Tensor]], *asked: Tensor) -> list[Tensor]:
        """The same of several tensors that are made at once."""
        parts = self._made(what, make, asked)
        return list(parts) if self._ranks.count == 1 else [self._whole(part) for part in parts]

    def _made(self, what: str, make: Callable[[], Sequence[Tensor]], asked: Sequence[Tensor]) -> Sequence[Tensor]:
        """What this process makes, once all are known to make the same."""
        if self._ranks.count == 1:
            return make()
        try:
            parts = make()
        except Exception as error:
            self._ranks.agree(f"{what} {self._name}", (*self._asked, *asked), error)
            raise
        self._ranks.agree(f"{what} {self._name}", (*self._asked, *asked), None)
        return parts

    def _whole(self, part: Tensor) -> Tensor:
        """All rows: each process adds its own to zeros."""
        if self.size == self.count:
            return self._added(part)
        each = len(part) // self.size
        whole = part.new_zeros(each * self.count, *part.shape[1:])
        whole[each * self.where.start : each * self.where.stop] = part.detach()
        return self._added(whole)

    def _added(self, part: Tensor) -> Tensor:
        """The sum over the processes whose part counts: all, or process 0 where each computed all tasks."""
        counts = self.size < self.count or self._ranks.first
        exact = torch.uint8 if part.dtype == torch.bool else part.dtype
        mine = (part if counts else torch.zeros_like(part)).detach().to(exact, copy=True)
        return self._ranks.add(mine.contiguous()).to(part.dtype)


_joined = [Ranks()]


def joined() -> Ranks:
    """The processes that this one computes with; itself alone before `join_ranks`."""
    return _joined[0]


def join_ranks() -> Ranks:
    """Compute with the other processes that `torchrun` started: every problem's tasks are shared from now on.

    Call it once, in all processes, before anything is computed. The processes talk through gloo; tensors on GPUs go
    through NCCL where each process has a GPU of its own, `cuda` without a number. Raises InputError without torchrun.

    Example:
        >>> import metafluence as mf
        >>> mf.join_ranks()
        Traceback (most recent call last):
        ...
        metafluence.errors.InputError: No torchrun started this process. Use `torchrun --nproc-per-node 2 script.py`.
    """
    if joined().count > 1:
        return joined()
    if not {"RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"} <= os.environ.keys():
        raise InputError("No torchrun started this process. Use `torchrun --nproc-per-node 2 script.py`.")
    local, each = int(os.environ.get("LOCAL_RANK", "0")), int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    own_gpu = torch.cuda.is_available() and torch.cuda.device_count() >= each and dist.is_nccl_available()
    if own_gpu:
        torch.cuda.set_device(local)
    dist.init_process_group("cpu:gloo,cuda:nccl" if own_gpu else "gloo")
    atexit.register(dist.destroy_process_group)
    _joined[0] = Ranks(dist.get_rank(), dist.get_world_size())
    return joined()


def _alike(head: Tensor, other: Tensor) -> bool:
    """Whether two processes ask for the same thing, with numbers that differ by rounding at most."""
    same_sum = torch.allclose(head[2:], other[2:], rtol=0.0, atol=CLOSE * float(head[3]), equal_nan=True)
    return bool(head[0] == other[0]) and same_sum


def _portable(error: Exception | None) -> bytes | None:
    """An error that other processes can raise."""
    if error is None:
        return None
    try:
        packed = pickle.dumps(error)
        pickle.loads(packed)
        return packed
    except Exception:
        return pickle.dumps(ExecutorError(in_words(error)))


def _reason(error: Exception) -> str:
    """What torch says, without where in its code."""
    return re.sub(r"\[\S*:\d+\] ", "", str(error)).strip().partition(". ")[0]

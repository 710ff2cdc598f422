"""Local processes through joblib."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from joblib import Parallel, cpu_count, delayed

from metafluence import Executor, Item, Result, keep_freed_memory


@dataclass(frozen=True)
class Processes(Executor):
    """`jobs` worker processes (None: one per core); the cores' threads are divided among them."""

    jobs: int | None = None

    def map(self, function: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[tuple[int, Result]]:
        jobs = min(self.jobs or cpu_count(), max(1, len(items)))
        threads = max(1, cpu_count() // jobs)
        pool = Parallel(n_jobs=jobs, return_as="generator_unordered")
        found = pool(delayed(_numbered)(function, i, item, threads) for i, item in enumerate(items))
        yield from cast(Iterator[tuple[int, Result]], found)


def _numbered(function: Callable[[Item], Result], index: int, item: Item, threads: int) -> tuple[int, Result]:
    keep_freed_memory()
    torch.set_num_threads(threads)
    return index, function(item)

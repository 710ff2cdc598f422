"""Local processes through joblib."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from joblib import Parallel, delayed
from joblib.externals.loky.process_executor import TerminatedWorkerError

from metafluence import Count, Parcel, RemoteExecutor, Whole, count, fatal


@dataclass(frozen=True)
class Processes(RemoteExecutor):
    """`jobs` worker processes (None: one per core); the cores' threads are divided among them.

    Where a worker dies, what was not finished is done again, with half as many at once after each death but the first,
    so that memory may suffice. retries: how often it is tried again while nothing more is finished, at last one at a
    time; then an error names what the worker died of.
    """

    jobs: Count | None = None
    retries: Whole = 2

    def carry(
        self, parcel: Parcel[Any, Any], items: Sequence[bytes], notice: Callable[[str], None]
    ) -> Generator[tuple[int, bytes], None, None]:
        jobs = width = self.local_jobs(len(items))
        left = dict(enumerate(items))
        deaths = in_a_row = lost = 0
        signs: set[str] = set()
        while left:
            # Where one is done at a time, it is alone in the pool: then it is known what a worker died of.
            batch = [next(iter(left))] if width == 1 else list(left)
            try:
                for index, outcome in _run(parcel, {i: left[i] for i in batch}, jobs, width):
                    del left[index]
                    in_a_row = 0
                    yield index, outcome
            except TerminatedWorkerError as error:
                suspects = [i for i in batch if i in left][:width]
                deaths, in_a_row, lost = deaths + 1, in_a_row + 1, lost + len(suspects)
                signs.update(re.findall(r"SIG\w+|EXIT\(\d+\)", str(error)))
                if in_a_row > self.retries:
                    raise fatal(suspects, items, in_a_row, ", ".join(sorted(signs))) from error
                if in_a_row == self.retries:
                    width = 1
                elif deaths > 1:
                    width = max(1, width // 2)
        if deaths:
            how = f" ({', '.join(sorted(signs))})" if signs else ""
            again = f"its {count(lost, 'unfinished run')} {'was' if lost == 1 else 'were'} done again"
            notice(f"A worker process died {count(deaths, 'time')}{how}; {again}.")


def _run(parcel: Parcel[Any, Any], batch: dict[int, bytes], jobs: int, width: int) -> Iterator[tuple[int, bytes]]:
    """At most `width` at a time, and never in this process."""
    settings: Any = {"batch_size": 1, "pre_dispatch": width}  # typed as words by joblib
    pool = Parallel(jobs, return_as="generator_unordered", **settings)
    found: Any = pool(delayed(parcel)(index, item) for index, item in batch.items())
    try:
        for one in found:  # noqa: UP028  (`yield from` would hand an early end on before the filter is set)
            yield one
    finally:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # what is not finished is not wanted any more
            found.close()

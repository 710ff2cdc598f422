"""A Dask cluster, or local processes that Dask looks after.

Through Dask's own interface, not joblib's backend for it: there, an exception is seen only after whichever run joblib
happens to wait for has ended, and what travels is pickled by reference, which a class from a user's own file is not
found by.
"""

from __future__ import annotations

import atexit
import logging
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import CancelledError
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from typing import Any
from uuid import uuid4

from joblib import cpu_count

from metafluence import Count, ExecutorError, Parcel, RemoteExecutor, count, fatal, optional_package

try:
    from distributed import WorkerPlugin
except ImportError:  # said where an executor is made
    WorkerPlugin = object

CONNECT = 5
"""Seconds within which a scheduler answers."""
FIRST_WORKER = 60
"""Seconds within which a cluster without workers gets one."""


@dataclass(frozen=True)
class Dask(RemoteExecutor):
    """Workers of a Dask cluster, which have metafluence installed; Dask does again what a lost worker had.

    address: its scheduler, as tcp://host:8786. None starts `jobs` local processes, which serve until the program
    ends; a script of yours then needs its `if __name__ == "__main__":`. jobs: how many runs at once; None: as many as
    there are cores.
    """

    jobs: Count | None = None
    address: str | None = None

    def __post_init__(self) -> None:
        optional_package("distributed", "dask")

    @property
    def elsewhere(self) -> bool:
        return self.address is not None

    def carry(
        self, parcel: Parcel[Any, Any], items: Sequence[bytes], notice: Callable[[str], None]
    ) -> Generator[tuple[int, bytes], None, None]:
        distributed = optional_package("distributed", "dask")
        with self._client() as client:
            before = client.ncores()
            # A cluster that grows with what waits for it gets everything at once.
            width = self.jobs or (len(items) if self.elsewhere else sum(before.values()))
            waiting = iter(range(len(items)))
            running: dict[Any, int] = {}
            name = f"metafluence-{uuid4().hex}"

            def submit(index: int) -> Any:
                future = client.submit(_run, name, index, items[index], pure=False)
                running[future] = index
                return future

            client.register_plugin(_Carrier(parcel), name=name)
            try:
                done = distributed.as_completed(loop=client.loop)
                done.update([submit(index) for index in islice(waiting, width)])
                if not before:
                    self._await_worker(client)
                for future in done:
                    outcome = _outcome(distributed, future, running, items)
                    del running[future]
                    future.release()  # else Dask would compute it again where a worker is lost that still has it
                    yield outcome
                    done.update([submit(index) for index in islice(waiting, 1)])
            finally:
                client.cancel(list(running))
                client.unregister_worker_plugin(name)
            lost = len(before.keys() - client.ncores().keys())
        if lost:
            notice(f"Dask lost {count(lost, 'worker')}; what was unfinished there was done again.")

    @contextmanager
    def _client(self) -> Iterator[Any]:
        distributed = optional_package("distributed", "dask")
        if self.address is None:
            jobs = self.jobs or cpu_count()
            client = _local(jobs)
            client.cluster.scale(jobs)  # in place of workers that died
            client.wait_for_workers(jobs, timeout=FIRST_WORKER)
            yield client
            return
        try:
            client = distributed.Client(self.address, timeout=CONNECT, set_as_default=False)
        except (OSError, ValueError) as error:
            raise ExecutorError(
                f"There is no Dask scheduler at {self.address} ({error}). Start one with `dask scheduler`, give its "
                "address, or leave `address` out for local processes."
            ) from error
        with client:
            yield client

    def _await_worker(self, client: Any) -> None:
        """For work that waits, an adaptive cluster starts workers."""
        try:
            client.wait_for_workers(1, timeout=FIRST_WORKER)
        except TimeoutError as error:
            raise ExecutorError(
                f"The Dask scheduler at {client.scheduler.address} has had no worker for {FIRST_WORKER} seconds. "
                f"Start some: `dask worker {client.scheduler.address}`."
            ) from error


class _Carrier(WorkerPlugin):  # pyright: ignore[reportGeneralTypeIssues]
    """Brings a parcel to every worker once, to those too that come later.

    As an argument of what is run it would be sent with each. As a result that each depends on, it would keep Dask from
    using other workers than the one that has it.
    """

    def __init__(self, parcel: Parcel[Any, Any]) -> None:
        self.parcel = parcel


def _run(name: str, index: int, item: bytes) -> tuple[int, bytes]:
    return optional_package("distributed", "dask").get_worker().plugins[name].parcel(index, item)


def _outcome(distributed: Any, future: Any, running: dict[Any, int], items: Sequence[bytes]) -> tuple[int, bytes]:
    try:
        return future.result()
    except distributed.KilledWorker as error:
        # Dask blames what the worker had, which may only have waited there behind what killed it.
        raise fatal(sorted(running.values()), items, error.allowed_failures + 1) from error
    except CancelledError as error:
        raise ExecutorError(f"Dask gave the work up: {error}. Is its scheduler still there?") from error


@lru_cache
def _local(jobs: int) -> Any:
    distributed = optional_package("distributed", "dask")
    cluster = distributed.LocalCluster(
        n_workers=jobs,
        threads_per_worker=1,
        memory_limit=0,  # with one, a worker that keeps freed memory would be paused for good
        dashboard_address="127.0.0.1:0",
        silence_logs=logging.CRITICAL,
    )
    client = distributed.Client(cluster, set_as_default=False)
    atexit.register(cluster.close)
    atexit.register(client.close)
    return client

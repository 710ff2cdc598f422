"""A Ray cluster, or local processes that Ray looks after.

Through Ray's own interface, not joblib's backend for it: that one gives nothing back before everything is finished,
replaces a base class of joblib's pools for the whole program, and does not do again what a dead worker had.
"""

from __future__ import annotations

import os
import re
import socket
import sys
from collections import Counter
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any

from joblib import cpu_count

from metafluence import Count, ExecutorError, Parcel, RemoteExecutor, count, fatal, optional_package

CONNECT = 5.0
"""Seconds within which a cluster answers. Ray itself would try for more than a minute, and then end the program."""
RETRIES = 2
"""How often a run that killed its worker is tried again."""


@dataclass(frozen=True)
class Ray(RemoteExecutor):
    """Workers of a Ray cluster, which have metafluence installed; what a lost worker had is done again.

    address: of the cluster, as host:6379, `auto` for the one that this machine belongs to, or ray://host:10001. None
    starts local processes, which serve until the program ends; a program that has called ray.init itself keeps to
    that. jobs: how many runs at once; None: as many as there are cores.
    """

    jobs: Count | None = None
    address: str | None = None

    def __post_init__(self) -> None:
        optional_package("ray", "ray")

    @property
    def elsewhere(self) -> bool:
        return self.address is not None

    def carry(
        self, parcel: Parcel[Any, Any], items: Sequence[bytes], notice: Callable[[str], None]
    ) -> Generator[tuple[int, bytes], None, None]:
        ray = optional_package("ray", "ray")
        os.environ.setdefault("RAY_TQDM_PATCH_PRINT", "0")  # else it puts its own `print` in the place of Python's
        _join(ray, self.address, self.jobs or cpu_count())
        lost = (
            ray.exceptions.WorkerCrashedError,
            ray.exceptions.OutOfMemoryError,
            ray.exceptions.NodeDiedError,
            ray.exceptions.ObjectLostError,
        )
        task, held = ray.remote(num_cpus=1, max_retries=0)(_run), ray.put(parcel)
        waiting, running = list(range(len(items)))[::-1], {}
        deaths: Counter[int] = Counter()
        try:
            while waiting or running:
                while waiting and len(running) < (self.jobs or len(items)):
                    index = waiting.pop()
                    running[task.remote(held, index, items[index])] = index
                (done,), _ = ray.wait(list(running))
                index = running.pop(done)
                try:
                    outcome = ray.get(done)
                except lost as error:
                    deaths[index] += 1
                    if deaths[index] > RETRIES:
                        raise fatal([index], items, deaths[index]) from error
                    waiting.append(index)
                except ray.exceptions.RayError as error:
                    raise ExecutorError(f"Ray gave the work up: {error}") from error
                else:
                    yield outcome
        finally:
            for reference in running:
                ray.cancel(reference, force=True)
        if deaths:
            again = f"its run {'was' if deaths.total() == 1 else 'were'} done again"
            notice(f"A Ray worker died {count(deaths.total(), 'time')}; {again}.")


def _run(parcel: Parcel[Any, Any], index: int, item: bytes) -> tuple[int, bytes]:
    return parcel(index, item)


_JOINED: list[tuple[str | None, int]] = []
"""What this module has connected the program to; Ray has one connection for a whole program."""


def _join(ray: Any, address: str | None, cores: int) -> None:
    wanted = (address, 0 if address is not None else cores)
    if ray.is_initialized():
        if wanted in _JOINED or not _JOINED:
            return
        ray.shutdown()
    _JOINED.clear()
    settings = {"address": address or "local", "log_to_driver": False, "logging_level": "ERROR"}
    if address is None:
        path = os.pathsep.join(filter(None, sys.path))  # Ray's workers know less than this program does
        settings |= {"num_cpus": cores, "include_dashboard": False, "runtime_env": {"env_vars": {"PYTHONPATH": path}}}
    try:
        _probe(address or "")
        ray.init(**settings)
    except (OSError, ValueError, RuntimeError) as error:
        where = f"There is no Ray cluster at {address}" if address is not None else "Ray does not start here"
        raise ExecutorError(
            f"{where} ({error}). Start one with `ray start --head` and give its address, or use another executor."
        ) from error
    _JOINED.append(wanted)


def _probe(address: str) -> None:
    """Raises OSError where nobody listens."""
    place = re.fullmatch(r"(?:ray://)?\[?(.+?)\]?:(\d+)", address)
    if place is not None:
        socket.create_connection((place[1], int(place[2])), CONNECT).close()

"""Executors: where independent pieces of work run, and how work travels to other processes."""

from __future__ import annotations

import importlib
import os
import platform
import reprlib
import threading
import time
import traceback
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Generic, TypeVar
from uuid import uuid4

import cloudpickle
import numpy as np
import torch
from joblib import cpu_count

from metafluence.allocator import keep_freed_memory
from metafluence.errors import ExecutorError, InputError, MetafluenceError
from metafluence.registry import Component, Count
from metafluence.runtime.devices import full_precision

Item = TypeVar("Item")
Result = TypeVar("Result")


NAMED = 8
"""How many items an error names at most."""


def warn(sentence: str) -> None:
    """The default `notice`: a Python warning."""
    warnings.warn(sentence, stacklevel=2)


class Executor(Component, ABC):
    """A frozen dataclass that runs one function over many items.

    Example:
        >>> from metafluence_plugins.executors.serial import Serial
        >>> sorted(Serial().map(abs, [-1, 2, -3]))
        [(0, 1), (1, 2), (2, 3)]
    """

    @abstractmethod
    def map(
        self, function: Callable[[Item], Result], items: Sequence[Item], notice: Callable[[str], None] = warn
    ) -> Iterator[tuple[int, Result]]:
        """Yield (index, result) as each item finishes, in any order. The first exception is raised and ends the work.

        notice: Called with a sentence about a failure that was recovered from, such as a worker that died.
        """


@dataclass(frozen=True)
class RemoteExecutor(Executor):
    """An executor whose work runs in other processes. A subclass implements the transport in `carry`.

    jobs: Number of workers; None is one per core.
    """

    jobs: Count | None = None

    @property
    def elsewhere(self) -> bool:
        """Whether workers may be on other machines. If not, work for one worker is done in this process."""
        return False

    def map(
        self, function: Callable[[Item], Result], items: Sequence[Item], notice: Callable[[str], None] = warn
    ) -> Iterator[tuple[int, Result]]:
        if not items:
            return
        if not self.elsewhere and self.local_jobs(len(items)) == 1:
            for index, item in enumerate(items):
                yield index, function(item)
            return
        if self.elsewhere:
            parcel = Parcel(function)
        else:
            parcel = Parcel(function, divided_threads(self.local_jobs(len(items))), owned=True)
        with closing(self.carry(parcel, [parcel.seal(item) for item in items], notice)) as found:
            for index, outcome in found:
                yield index, parcel.open(outcome)

    def local_jobs(self, items: int) -> int:
        """Number of workers on this machine that `items` items keep busy."""
        return max(1, min(self.jobs or cpu_count(), items))

    @abstractmethod
    def carry(
        self, parcel: Parcel[Any, Any], items: Sequence[bytes], notice: Callable[[str], None]
    ) -> Generator[tuple[int, bytes], None, None]:
        """Run `parcel(index, item)` in workers; yield its results as they finish."""


class Parcel(Generic[Item, Result]):
    """A function packed for other processes, independent of how it is sent.

    The function is pickled once, and unpickled once in each thread that runs it. Items, results and exceptions are
    pickled by cloudpickle, which includes classes of a user's own file that other processes cannot import.

    Args:
        function: What to run in the workers.
        threads: Torch threads of each worker.
        owned: The workers belong to this process and end when it is killed.
    """

    def __init__(self, function: Callable[[Item], Result], threads: int = 1, owned: bool = False) -> None:
        self._key, self._threads = uuid4().hex, threads
        self._owner = (platform.node(), os.getpid()) if owned else None
        # An array, because joblib and Ray have arrays in memory that processes share.
        self._code = np.frombuffer(cloudpickle.dumps(function), dtype=np.uint8)

    def __call__(self, index: int, item: bytes) -> tuple[int, bytes]:
        """Run the function on a sealed item, in a worker."""
        if self._owner is not None:
            _end_with(*self._owner)
        keep_freed_memory()
        full_precision()
        torch.set_num_threads(self._threads)
        try:
            return index, cloudpickle.dumps((self._function()(cloudpickle.loads(item)), None))
        except Exception as error:
            return index, cloudpickle.dumps((None, _portable(error)))

    @staticmethod
    def seal(item: Item) -> bytes:
        return cloudpickle.dumps(item)

    @staticmethod
    def open(outcome: bytes) -> Result:  # pyright: ignore[reportInvalidTypeVarUse]
        """Unpack the result; an exception of the worker is raised here."""
        result, error = cloudpickle.loads(outcome)
        if error is not None:
            raise error
        return result

    def _function(self) -> Callable[[Item], Result]:
        if getattr(_UNPACKED, "key", None) != self._key:
            _UNPACKED.key = _UNPACKED.function = None  # free the old one first
            _UNPACKED.function = cloudpickle.loads(self._code.data)
            _UNPACKED.key = self._key
        return _UNPACKED.function


_WATCHED: set[int] = set()
"""Owners that this worker watches already."""


def _end_with(host: str, owner: int) -> None:
    """End this worker within seconds after its owner, a process of this machine, was killed."""
    if host != platform.node() or owner == os.getpid() or owner in _WATCHED:
        return
    _WATCHED.add(owner)

    def watch() -> None:
        while _alive(owner):
            time.sleep(1.0)
        os._exit(1)

    threading.Thread(target=watch, name="metafluence-owner", daemon=True).start()


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


_UNPACKED = threading.local()
"""The function that each thread unpacked last."""


def _portable(error: Exception) -> Exception:
    """The exception in a form that can be pickled, with the worker's traceback as a note."""
    text = "".join(traceback.format_exception(error)).rstrip()
    try:
        error = cloudpickle.loads(cloudpickle.dumps(error.with_traceback(None)))
    except Exception:  # its constructor takes other arguments than the message
        error = MetafluenceError(f"{type(error).__name__}: {error}")
    error.add_note(f"In the worker:\n{text}")
    return error


def fatal(suspects: Sequence[int], items: Sequence[bytes], times: int, sign: str = "") -> ExecutorError:
    """The error for an item that kills its workers.

    Args:
        suspects: Indices of the items, one of which is the cause.
        items: All items, sealed.
        times: How often in a row a worker died.
        sign: How the workers ended, such as SIGKILL.
    """
    named = ", ".join(f"{index + 1} ({reprlib.repr(cloudpickle.loads(items[index]))})" for index in suspects[:NAMED])
    more = f" and {len(suspects) - NAMED} more" if len(suspects) > NAMED else ""
    at = f"item {named}" if len(suspects) == 1 else f"one of the items {named}{more}"
    return ExecutorError(
        f"A worker died {count(times, 'time')} in a row{f' ({sign})' if sign else ''} of {at} of {len(items)}. The "
        "usual cause is too little memory: use fewer `jobs` in the executor, or a smaller `memory_gib` in the study."
    )


def count(number: int, noun: str) -> str:
    """`1 time`, `2 times`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def divided_threads(jobs: int) -> int:
    """Torch threads for each of `jobs` processes: the cores divided by `jobs`, at most the threads of this process."""
    return max(1, min(torch.get_num_threads(), cpu_count() // jobs))


def optional_package(name: str, extra: str) -> ModuleType:
    """Import a package of an optional extra. Raises InputError with the command that installs it."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise InputError(
            f"{extra} needs the package {name}, which cannot be imported ({error}). "
            f"Run: pip install 'metafluence[{extra}]'"
        ) from error

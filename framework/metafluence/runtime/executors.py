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
    """Give a notice that nobody listens for as a Python warning."""
    warnings.warn(sentence, stacklevel=2)


class Executor(Component, ABC):
    """A frozen dataclass that runs one function over many items."""

    @abstractmethod
    def map(
        self, function: Callable[[Item], Result], items: Sequence[Item], notice: Callable[[str], None] = warn
    ) -> Iterator[tuple[int, Result]]:
        """Yield (index, result) as each is finished, in any order. The first exception ends it.

        notice: told in a sentence what went wrong and was mended, such as a worker that died.
        """


@dataclass(frozen=True)
class RemoteExecutor(Executor):
    """An executor whose work runs in other processes. A subclass says in `carry` how it gets there and back.

    jobs: how many work at once; None is one per core.
    """

    jobs: Count | None = None

    @property
    def elsewhere(self) -> bool:
        """Whether the workers are not this machine's own; if they are, work for only one is done in this process."""
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
        """How many workers on this machine have something to do."""
        return max(1, min(self.jobs or cpu_count(), items))

    @abstractmethod
    def carry(
        self, parcel: Parcel[Any, Any], items: Sequence[bytes], notice: Callable[[str], None]
    ) -> Generator[tuple[int, bytes], None, None]:
        """Yield what `parcel(index, item)` gives in a worker, for every item, as each is finished."""


class Parcel(Generic[Item, Result]):
    """A function on its way to other processes, whatever carries it; `threads` are torch's there.

    owned: the workers are this process's own, and end when it is killed.

    It is pickled once, and unpickled once in each thread that runs it. What goes and what comes back, exceptions
    included, travels by cloudpickle: with it the classes from a user's own file, which no other process can import.
    """

    def __init__(self, function: Callable[[Item], Result], threads: int = 1, owned: bool = False) -> None:
        self._key, self._threads = uuid4().hex, threads
        self._owner = (platform.node(), os.getpid()) if owned else None
        # An array, because joblib and Ray have arrays in memory that processes share.
        self._code = np.frombuffer(cloudpickle.dumps(function), dtype=np.uint8)

    def __call__(self, index: int, item: bytes) -> tuple[int, bytes]:
        """In a worker: run it on a sealed item."""
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
        """The result; what was raised in the worker is raised here."""
        result, error = cloudpickle.loads(outcome)
        if error is not None:
            raise error
        return result

    def _function(self) -> Callable[[Item], Result]:
        if getattr(_UNPACKED, "key", None) != self._key:
            _UNPACKED.key = _UNPACKED.function = None  # two are not held at once
            _UNPACKED.function = cloudpickle.loads(self._code.data)
            _UNPACKED.key = self._key
        return _UNPACKED.function


_WATCHED: set[int] = set()
"""The processes of this machine that this worker ends with."""


def _end_with(host: str, owner: int) -> None:
    """End this worker within seconds of its owner, if that is a process of this machine that was killed."""
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
"""The function that this thread unpacked last."""


def _portable(error: Exception) -> Exception:
    """The exception as it can travel, with the worker's traceback in a note."""
    said = "".join(traceback.format_exception(error)).rstrip()
    try:
        error = cloudpickle.loads(cloudpickle.dumps(error.with_traceback(None)))
    except Exception:  # one with arguments of its own cannot be made again from its message
        error = MetafluenceError(f"{type(error).__name__}: {error}")
    error.add_note(f"In the worker:\n{said}")
    return error


def fatal(suspects: Sequence[int], items: Sequence[bytes], times: int, sign: str = "") -> ExecutorError:
    """The error for work that kills its workers: one of the `suspects`, sealed in `items`, so many times in a row.

    sign: what the workers left behind, such as SIGKILL.
    """
    named = ", ".join(f"{index + 1} ({reprlib.repr(cloudpickle.loads(items[index]))})" for index in suspects[:NAMED])
    more = f" and {len(suspects) - NAMED} more" if len(suspects) > NAMED else ""
    at = f"item {named}" if len(suspects) == 1 else f"one of the items {named}{more}"
    return ExecutorError(
        f"A worker died {count(times, 'time')} in a row{f' ({sign})' if sign else ''} of {at} of {len(items)}. Where "
        "memory ran out, as it mostly has: use fewer `jobs` in the executor, or a smaller `memory_gib` in the study."
    )


def count(number: int, noun: str) -> str:
    """`1 time`, `2 times`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def divided_threads(jobs: int) -> int:
    """Torch threads for each of `jobs` processes, so that together they use every core once, and no more than here."""
    return max(1, min(torch.get_num_threads(), cpu_count() // jobs))


def optional_package(name: str, extra: str) -> ModuleType:
    """Import a package that only an extra of metafluence installs. Raises InputError saying how to get it."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise InputError(
            f"{extra} needs the package {name}, which cannot be imported ({error}). "
            f"Say: pip install 'metafluence[{extra}]'"
        ) from error

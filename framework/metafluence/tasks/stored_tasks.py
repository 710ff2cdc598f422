"""Sets of tasks in files, for those that are larger than memory."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from metafluence.errors import DataError, InputError, StoreError
from metafluence.runtime import load_tensors, save_tensors
from metafluence.tasks.origins import Origins
from metafluence.tasks.stored_inputs import StoredInputs
from metafluence.tasks.task_set import Batch, Task, TaskSet

FILE = "tasks.safetensors"
HALVES = ("support", "query")
AT_ONCE = 64
"""Tasks that are written together."""


def save_tasks(tasks: TaskSet | Iterable[Any], folder: str | Path) -> TaskSet:
    """Write tasks to a folder, and open them there.

    tasks: a set, or what yields parts of it: each a `TaskSet`, a `Task`, or (support_x, support_y, query_x, query_y) of
    one task. One part is held at a time. All are of one shape and type. folder: a new one.

    Raises:
        InputError: a part is none of these or unlike the first, two tasks have one name, or the folder has files.
        StoreError: the folder cannot be written.

    Example:
        >>> import tempfile, torch
        >>> def episodes():
        ...     for _ in range(3):
        ...         yield torch.randn(4, 2), torch.arange(4) % 2, torch.randn(6, 2), torch.arange(6) % 2
        >>> tasks = save_tasks(episodes(), tempfile.mkdtemp())
        >>> len(tasks), tasks[1:].query.inputs.shape
        (3, torch.Size([2, 6, 2]))
    """
    where = Path(folder)
    if where.exists() and any(where.iterdir()):
        raise InputError(f"{where} holds files. Give the tasks a folder of their own.")
    written = _Writer(where)
    try:
        where.mkdir(parents=True, exist_ok=True)
        with ExitStack() as files:
            opened = [files.enter_context(_file(where, half).open("wb")) for half in HALVES]
            for part in [tasks] if isinstance(tasks, TaskSet) else _parts(tasks):
                written.add(part, opened)
        written.finish()
    except BaseException as error:
        for half in HALVES:
            _file(where, half).unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise StoreError(f"{where} cannot be written ({error}). Free the disk or name another folder.") from error
        raise
    return open_tasks(where)


def open_tasks(folder: str | Path, count: int | None = None) -> TaskSet:
    """The tasks that `save_tasks` wrote, or the first `count` of them. Their inputs stay in the files: `tasks[index]`
    reads these tasks alone.

    A pass over all tasks reads them in order, a chunk at a time. A task whose values are not those that were written is
    refused when it is read (DataError).

    Raises:
        DataError: there are no such tasks, or files are missing, damaged or of another length.
        InputError: there are fewer.
    """
    where = Path(folder)
    if not (where / FILE).is_file():
        raise DataError(f"There are no saved tasks in {where}. Check the path, or save them with mf.save_tasks.")
    try:
        tensors, facts = load_tensors(where / FILE, FILE)
    except StoreError as error:
        raise DataError(f"{error} Save the tasks again with mf.save_tasks.") from error
    held = len(facts["ids"])
    some = held if count is None else count
    if not 1 <= some <= held:
        raise InputError(f"{where} holds {held} tasks, and {some} are asked for. Give 1 to {held}.")
    tensors.update({name: part[:some] for name, part in tensors.items() if name != "labels"})
    halves = []
    for half in HALVES:
        kind = getattr(torch, facts["dtype"])
        inputs = StoredInputs(_file(where, half), torch.Size(facts[half]), kind, tensors[f"{half}.sums"], kind)
        expected = held * inputs.row_bytes
        found = inputs.file.stat().st_size if inputs.file.is_file() else 0
        if found != expected:
            raise DataError(f"{inputs.file} has {found} bytes where {expected} were written. Save the tasks again.")
        halves.append(Batch(inputs.first(some), tensors[f"{half}.targets"]))  # type: ignore[arg-type]
    marks = {f"corrupted_{half}": tensors[f"{half}.corrupted"] for half in HALVES}
    origins = None
    if "support.images" in tensors:
        support, query = (tensors[f"{half}.images"] for half in HALVES)
        origins = Origins(support, query, tuple(facts["images"]), tensors["labels"], tuple(facts["classes"]))
    return TaskSet(*halves, ids=tuple(facts["ids"][:some]), **marks, origins=origins, counts=tensors.get("counts"))


class _Writer:
    """Writes inputs to files as they come, and what is small at the end."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._first: TaskSet | None = None
        self._ids: dict[str, None] = {}
        self._small: dict[str, tuple[Tensor, bytearray]] = {}
        """By name a first part, and the bytes of all: small tensors in between would tear the heap apart."""

    def add(self, part: TaskSet, files: Sequence[BinaryIO]) -> None:
        self._first = self._first or part[:1]
        _check_like(part, self._first)
        for start in range(0, len(part), AT_ONCE):
            self._write(part[start : start + AT_ONCE], files)

    def _write(self, tasks: TaskSet, files: Sequence[BinaryIO]) -> None:
        for name in tasks.ids:
            if name in self._ids:
                raise InputError(f"Two tasks are called {name!r}. Give every task an id of its own.")
            self._ids[name] = None
        small: dict[str, Tensor] = {}
        for half, file in zip(HALVES, files, strict=True):
            batch: Batch = getattr(tasks, half)
            rows = batch.inputs.cpu().contiguous().flatten(1).view(torch.uint8).numpy()
            small[f"{half}.sums"] = torch.tensor([zlib.crc32(row) for row in rows])
            file.write(rows.data)
            small |= {f"{half}.targets": batch.targets, f"{half}.corrupted": getattr(tasks, f"corrupted_{half}")}
            if tasks.origins is not None:
                small[f"{half}.images"] = getattr(tasks.origins, half)
        if tasks.counts is not None:
            small["counts"] = tasks.counts
        for name, part in small.items():
            rows = part.cpu().contiguous()
            self._small.setdefault(name, (rows[:0].clone(), bytearray()))[1].extend(rows.numpy().tobytes())

    def finish(self) -> None:
        first = self._first
        if first is None:
            raise InputError("There is no task to save. Give at least one.")
        facts = {"ids": list(self._ids), "dtype": str(first.dtype).removeprefix("torch.")}
        facts |= {half: [len(self._ids), *getattr(first, half).inputs.shape[1:]] for half in HALVES}
        tensors = {
            name: torch.frombuffer(held, dtype=like.dtype).reshape(-1, *like.shape[1:])
            for name, (like, held) in self._small.items()
        }
        if first.origins is not None:
            tensors["labels"] = first.origins.labels
            facts |= {"images": list(first.origins.images), "classes": list(first.origins.classes)}
        save_tensors(self._folder / FILE, tensors, facts, FILE)


def _file(folder: Path, half: str) -> Path:
    return folder / f"{half}-inputs.bin"


def _parts(tasks: Iterable[Any]) -> Iterator[TaskSet]:
    for number, part in enumerate(tasks):
        if isinstance(part, TaskSet):
            yield part
        elif isinstance(part, Task):
            yield TaskSet.stack([part])
        elif isinstance(part, tuple | list) and len(part) == 4 and all(isinstance(one, Tensor) for one in part):
            yield TaskSet.stack([Task(f"task-{number}", Batch(*part[:2]), Batch(*part[2:]))])
        else:
            raise InputError(
                f"Part {number} of the tasks is a {type(part).__name__}. Give a TaskSet, a Task, or (support_x, "
                "support_y, query_x, query_y) of one task."
            )


def _check_like(tasks: TaskSet, first: TaskSet) -> None:
    """Raises InputError where tasks cannot be in one set with the first."""
    ours, theirs = (
        [(str(part.dtype), list(part.shape[1:])) for h in HALVES for part in vars(getattr(t, h)).values()]
        for t in (tasks, first)
    )
    if ours != theirs:
        raise InputError(
            f"Task {tasks.ids[0]!r} has tensors of {ours}, those before it of {theirs}. Save tasks of one shape and "
            "type; mf.pad_tasks makes it so where numbers of instances differ."
        )
    if (tasks.counts is None) != (first.counts is None):
        raise InputError(
            "Some parts of the tasks are padded and some are not. Give parts of one set that mf.pad_tasks made."
        )
    origins = [t.origins and (t.origins.images, t.origins.classes, t.origins.labels.tolist()) for t in (tasks, first)]
    if origins[0] != origins[1]:
        raise InputError("Some parts of the tasks are drawn from other images than the first. Save them apart.")

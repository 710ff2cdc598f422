"""The tasks of a recorded loop: numbered as they come, written to files as they are used, read back as one set."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from metafluence.errors import InputError, StoreError
from metafluence.runtime import hash_tensor, load_tensors, save_tensors
from metafluence.tasks import Batch, Task, TaskSet

FILES = "tasks-*.safetensors"


class RecordedTasks:
    """Tasks of a loop, in files of a folder. The same task (by its id; without one, by its values) is one item."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._numbers: dict[str, tuple[int, str]] = {}
        self._waiting: list[Task] = []
        self._written = 0
        self._shapes: list[tuple[int, ...]] = []

    def add(self, tasks: TaskSet, named: bool) -> Tensor:
        """Their numbers [b]. Raises InputError where a task has the id of another one, or another shape."""
        shapes = [tuple(part.shape[1:]) for h in _halves(tasks) for part in (h.inputs, h.targets)]
        self._shapes = self._shapes or shapes
        if shapes != self._shapes:
            raise InputError(
                f"The tasks of this step have tensors of shapes {shapes}, those before {self._shapes}. Draw all tasks "
                "with one way, shot and number of queries."
            )
        numbers = []
        for i, name in enumerate(tasks.ids):
            task = Task(name, *(Batch(h.inputs[i].cpu().clone(), h.targets[i].cpu().clone()) for h in _halves(tasks)))
            digest = _digest(task)
            number, known = self._numbers.setdefault(name if named else digest, (len(self._numbers), digest))
            if known != digest:
                raise InputError(f"Two tasks are called {name!r}. Give every task an id of its own.")
            if number == self._written + len(self._waiting):
                self._waiting.append(task)
            numbers.append(number)
        return torch.tensor(numbers)

    def __len__(self) -> int:
        return len(self._numbers)

    def write(self) -> None:
        """Write the tasks that are not in a file yet."""
        if not self._waiting:
            return
        tasks = TaskSet.stack(self._waiting)
        parts = {f"{half}.{what}": getattr(getattr(tasks, half), what) for half, what in PARTS}
        save_tensors(self._folder / FILES.replace("*", f"{self._written:08d}"), parts, {"ids": list(tasks.ids)})
        self._written, self._waiting = self._written + len(tasks), []


PARTS = (("support", "inputs"), ("support", "targets"), ("query", "inputs"), ("query", "targets"))


def load_tasks(folder: Path, device: torch.device) -> TaskSet:
    """The tasks that were written to a folder, in order. Raises StoreError where there are none."""
    ids: list[str] = []
    stacked: dict[str, list[Tensor]] = {}
    for file in sorted(folder.glob(FILES)):
        tensors, facts = load_tensors(file)
        if file.name != FILES.replace("*", f"{len(ids):08d}"):
            raise StoreError(f"{folder} has lost the tasks from {len(ids)} on. Record the loop again.")
        ids += facts["ids"]
        for name, part in tensors.items():
            stacked.setdefault(name, []).append(part)
    if not ids:
        raise StoreError(f"There are no recorded tasks in {folder}. Record a loop there with mf.record.")
    joined = {name: torch.cat(stacked.pop(name)).to(device) for name in list(stacked)}
    support, query = (Batch(joined[f"{half}.inputs"], joined[f"{half}.targets"]) for half in ("support", "query"))
    return TaskSet(support, query, tuple(ids))


def as_tasks(batch: Any, step: int) -> tuple[TaskSet, bool]:
    """The tasks of a step, and whether they have ids of their own.

    batch: a `TaskSet`, a `Task`, a list of them; (support_x, support_y, query_x, query_y) of one task, of a stack of
    tasks, or a list of such tuples. Raises InputError for anything else.
    """
    if isinstance(batch, TaskSet):
        if batch.counts is not None:
            raise InputError("A recorded loop has tasks of one size, but these are padded. Sample one size of tasks.")
        return batch, True
    if isinstance(batch, Task):
        return TaskSet.stack([batch]), True
    if not isinstance(batch, Sequence) or not len(batch):
        raise _unknown(batch)
    if all(isinstance(task, Task) for task in batch):
        return TaskSet.stack(batch), True
    if len(batch) == 4 and all(isinstance(part, Tensor) for part in batch):
        single = batch[1].dim() == (2 if batch[1].is_floating_point() else 1)
        parts = [part.unsqueeze(0) if single else part for part in batch]
        names = tuple(f"step-{step}-{i}" for i in range(len(parts[0])))
        return TaskSet(Batch(parts[0], parts[1]), Batch(parts[2], parts[3]), names), False
    tasks = []
    for i, parts in enumerate(batch):
        if not isinstance(parts, Sequence) or len(parts) != 4 or not all(isinstance(part, Tensor) for part in parts):
            raise _unknown(parts)
        tasks.append(Task(f"step-{step}-{i}", Batch(parts[0], parts[1]), Batch(parts[2], parts[3])))
    return TaskSet.stack(tasks), False


def _unknown(given: Any) -> InputError:
    return InputError(
        f"recorder.step(batch) was given a {type(given).__name__} that is no task. Give a TaskSet, or a list of "
        "(support_x, support_y, query_x, query_y), one for each task of the step."
    )


def _halves(tasks: TaskSet) -> tuple[Batch, Batch]:
    return tasks.support, tasks.query


def _digest(task: Task) -> str:
    digest = hashlib.sha256()
    for half in (task.support, task.query):
        hash_tensor(digest, half.inputs)
        hash_tensor(digest, half.targets)
    return digest.hexdigest()

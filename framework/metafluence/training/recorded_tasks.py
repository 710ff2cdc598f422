"""The tasks of a recorded loop: numbered as they come, written to files as they are used, read back as one set."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from metafluence.errors import InputError, StoreError
from metafluence.runtime import hash_tensor, load_tensors, save_tensors, warn
from metafluence.tasks import Batch, Origins, Task, TaskSet, pad_tasks, widened
from metafluence.training.recorded_origins import IMAGES, JoinedOrigins, joined_origins, mixed_labels

FILES = "tasks-*.safetensors"


class RecordedTasks:
    """Tasks of a loop, in files of a folder. The same task (by its id; without one, by its values) is one item.

    The marks of corruption and the images that instances come from are kept, too. Tasks may differ in numbers of
    instances, if they name no images; they are padded when they are read.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._numbers: dict[str, tuple[int, str]] = {}
        self._waiting: list[tuple[str, bool, dict[str, Tensor]]] = []
        self._written = 0
        self._shapes: list[tuple[int, ...]] = []
        self._images: JoinedOrigins | None = None
        self._sizes: set[tuple[int, int]] = set()
        self._mixed = False

    def resume(self) -> None:
        """Take up the tasks that are in the folder's files."""
        for file in sorted(self._folder.glob(FILES)):
            tensors, facts = load_tensors(file)
            if "images" in facts:
                self._images = self._images or JoinedOrigins()
                self._images.resume(facts)
            self._shapes = [tuple(tensors[f"{half}.{what}"].shape[2:]) for half, what in PARTS if what != "corrupted"]
            self._sizes |= set(map(tuple, tensors["counts"].tolist()))
            for i, (name, named) in enumerate(zip(facts["ids"], facts["named"], strict=True)):
                support, query = tensors["counts"][i].tolist()
                parts = {
                    key: part[i, : support if key.startswith("support") else query]
                    for key, part in tensors.items()
                    if key != "counts"
                }
                self._number(name, named, parts)
            self._written = len(self._numbers)

    @property
    def differ(self) -> bool:
        """Whether tasks so far differ in numbers of instances."""
        return len(self._sizes) > 1

    def add(self, tasks: TaskSet, named: bool) -> Tensor:
        """Their numbers [b].

        Raises InputError where a task has the id of another one, or instances of another shape; where only some tasks
        have images, or such tasks differ in numbers of instances; and where an image has two classes.
        """
        shapes = [tuple(part.shape[2:]) for h in _halves(tasks) for part in (h.inputs, h.targets)]
        self._shapes = self._shapes or shapes
        if shapes != self._shapes:
            raise InputError(
                f"The instances of this step have tensors of shapes {shapes}, those before {self._shapes}. Give all "
                "tasks instances of one shape."
            )
        self._sizes |= set(map(tuple, _sizes(tasks).tolist()))
        if not self._numbers and tasks.origins is not None:
            self._images = JoinedOrigins()
        if (tasks.origins is None) != (self._images is None):
            raise InputError(
                "Some tasks of this loop name their images and some do not. Name those of all, or of none."
            )
        if self._images is not None and self.differ:
            raise InputError(
                "Tasks of this loop differ in numbers of instances and name their images. Draw tasks of one size, or "
                "leave the names out."
            )
        if not (named or self._mixed) and (sentence := mixed_labels(tasks)):
            self._mixed = True
            warn(sentence)
        return torch.tensor([self._add(tasks, i, named) for i in range(len(tasks))])

    def _add(self, tasks: TaskSet, i: int, named: bool) -> int:
        """The number of one of these tasks."""
        name, (support, query) = tasks.ids[i], _sizes(tasks)[i].tolist()
        sizes = {"support": support, "query": query}
        parts = {f"{half}.{what}": _part(tasks, half, what)[i, : sizes[half]].cpu().clone() for half, what in PARTS}
        if self._images is not None and tasks.origins is not None:
            parts |= self._images.add(tasks.origins[torch.tensor([i])])
        number = self._number(name, named, parts)
        if number == self._written + len(self._waiting):
            self._waiting.append((name, named, parts))
        return number

    def _number(self, name: str, named: bool, parts: dict[str, Tensor]) -> int:
        """That of a task of these parts; the next one for a task that is new."""
        digest = "".join(_digest({key: parts[key] for key in keys if key in parts}) for keys in (VALUES, NUMBERS))
        number, known = self._numbers.setdefault(name if named else digest, (len(self._numbers), digest))
        if known != digest:
            raise InputError(f"Two tasks are called {name!r}. Give every task an id of its own.")
        return number

    def __len__(self) -> int:
        return len(self._numbers)

    def write(self) -> None:
        """Write the tasks that are not in a file yet."""
        if not self._waiting:
            return
        ids, named, parts = zip(*self._waiting, strict=True)
        stacked = {key: _joined([part[key].unsqueeze(0) for part in parts]) for key in parts[0]}
        stacked["counts"] = torch.tensor(
            [[len(part[f"{half}.targets"]) for half in ("support", "query")] for part in parts]
        )
        facts = {"ids": list(ids), "named": list(named), **(self._images.taken() if self._images is not None else {})}
        save_tensors(self._folder / FILES.replace("*", f"{self._written:08d}"), stacked, facts)
        self._written, self._waiting = self._written + len(ids), []


PARTS = tuple((half, what) for half in ("support", "query") for what in ("inputs", "targets", "corrupted"))
VALUES = tuple(f"{half}.{what}" for half, what in PARTS)
NUMBERS = tuple(f"{half}{IMAGES}" for half in ("support", "query"))
"""What a file of tasks calls their tensors, and the numbers of their images."""


def _part(tasks: TaskSet, half: str, what: str) -> Tensor:
    return getattr(tasks, f"corrupted_{half}") if what == "corrupted" else getattr(getattr(tasks, half), what)


def load_tasks(folder: Path, device: torch.device) -> TaskSet:
    """The tasks that were written to a folder, in order. Raises StoreError where there are none."""
    ids: list[str] = []
    stacked: dict[str, list[Tensor]] = {}
    named: list[dict[str, Any]] = []
    for file in sorted(folder.glob(FILES)):
        tensors, facts = load_tensors(file)
        if file.name != FILES.replace("*", f"{len(ids):08d}"):
            raise StoreError(f"{folder} has lost the tasks from {len(ids)} on. Record the loop again.")
        ids += facts["ids"]
        named.append(facts)
        for name, part in tensors.items():
            stacked.setdefault(name, []).append(part)
    if not ids:
        raise StoreError(f"There are no recorded tasks in {folder}. Record a loop there with mf.record.")
    joined = {name: _joined(stacked.pop(name)) for name in list(stacked)}
    counts = joined.get("counts")
    if counts is not None and bool((counts == counts[0]).all()):
        counts = None
    halves = (
        Batch(joined[f"{half}.inputs"].to(device), joined[f"{half}.targets"].to(device))
        for half in ("support", "query")
    )
    marks = (joined.get(f"{half}.corrupted") for half in ("support", "query"))
    tasks = TaskSet(*halves, tuple(ids), *marks, joined_origins(joined, named), counts)  # type: ignore[arg-type]
    if counts is None:
        return tasks
    held = {f"corrupted_{h}": _part(tasks, h, "corrupted") & tasks.held(h).cpu() for h in ("support", "query")}
    return replace(tasks, **held)


def as_tasks(batch: Any, step: int, classes: Mapping[str, str] | None = None) -> tuple[TaskSet, bool]:
    """The tasks of a step, and whether they have ids of their own.

    batch: a `TaskSet`, a `Task`, a list of them; (support_x, support_y, query_x, query_y) of one task, of a stack of
    tasks, or a list of such tuples. After the four may follow the names of the support's and of the query's images.
    classes: of these images, by name; the folder that the name begins with if it is None. Raises InputError for
    anything else.
    """
    if isinstance(batch, TaskSet):
        return batch, True
    if isinstance(batch, Task):
        return TaskSet.stack([batch]), True
    if not isinstance(batch, Sequence) or not len(batch):
        raise _unknown(batch)
    if all(isinstance(task, Task) for task in batch):
        return pad_tasks(batch), True
    if _is_parts(batch):
        single = batch[1].dim() == (2 if batch[1].is_floating_point() else 1)
        each = [batch] if single else list(zip(*batch, strict=True))
    else:
        each = list(batch)
    for parts in each:
        if not _is_parts(parts) or len(parts) != len(each[0]):
            raise _unknown(parts)
    tasks = pad_tasks(
        Task(f"step-{step}-{i}", Batch(parts[0], parts[1]), Batch(parts[2], parts[3])) for i, parts in enumerate(each)
    )
    if len(each[0]) == 4:
        return tasks, False
    if tasks.counts is not None:
        raise InputError(
            "Tasks of this step differ in numbers of instances and name their images. Draw tasks of one size, or leave "
            "the names out."
        )
    origins = Origins.named([parts[4] for parts in each], [parts[5] for parts in each], classes)
    return TaskSet(tasks.support, tasks.query, tasks.ids, origins=origins), False


def _is_parts(parts: Any) -> bool:
    """Whether these are four tensors, and nothing more or the names of two halves."""
    return isinstance(parts, Sequence) and len(parts) in (4, 6) and all(isinstance(part, Tensor) for part in parts[:4])


def _unknown(given: Any) -> InputError:
    inside = ", ".join(type(part).__name__ for part in given[:6]) if isinstance(given, Sequence) else ""
    held = f" ({inside})" if inside and not isinstance(given, str) else ""
    return InputError(
        f"recorder.step(batch) was given a {type(given).__name__}{held} that is no task. Give a TaskSet, or a list of "
        "(support_x, support_y, query_x, query_y), torch's tensors, one for each task of the step; after these four, "
        "in all tasks or in none, the names of the support images and of the query images."
    )


def _sizes(tasks: TaskSet) -> Tensor:
    """Numbers of support and query instances of each task, [N, 2]."""
    return torch.stack([tasks.held(half).sum(dim=1).cpu() for half in ("support", "query")], dim=1)


def _joined(parts: Sequence[Tensor]) -> Tensor:
    """Parts [k, n, ...] as one, widened to the largest n."""
    most = max(part.shape[1] for part in parts)
    return torch.cat([widened(part, most) for part in parts])


def _halves(tasks: TaskSet) -> tuple[Batch, Batch]:
    return tasks.support, tasks.query


def _digest(parts: dict[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for part in parts.values():
        hash_tensor(digest, part)
    return digest.hexdigest()

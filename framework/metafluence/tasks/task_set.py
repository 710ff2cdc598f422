"""Tasks, stacked into tensors: everything the objective sums over."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from copy import copy
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from metafluence.errors import InputError
from metafluence.runtime import hash_parts, hash_tensor
from metafluence.tasks.items import check_level
from metafluence.tasks.levels import WEIGHED, Level
from metafluence.tasks.origins import Origins, known_origins
from metafluence.tasks.stored_inputs import StoredInputs
from metafluence.tasks.targets import check_classes, clean_targets


@dataclass(frozen=True)
class Batch:
    """Instances: `inputs` [..., n, *shape] and `targets`; a stack of tasks has a leading dimension N.

    Targets are class indices [..., n] (int64), or real values [..., n, C] for regression.
    """

    inputs: Tensor
    targets: Tensor

    def __getitem__(self, index: int | slice | Tensor | list[int]) -> Batch:
        return Batch(self.inputs[index], self.targets[index])


@dataclass(frozen=True)
class Task:
    """One few-shot task: `support` to adapt on, and `query` to evaluate on.

    Example:
        >>> import torch
        >>> support = Batch(torch.zeros(2, 3), torch.tensor([0, 1]))
        >>> Task("cats-dogs", support, query=support).id
        'cats-dogs'
    """

    id: str
    support: Batch
    query: Batch


@dataclass(frozen=True, repr=False)
class TaskSet:
    """N tasks of one shape, stacked; those that differ in numbers of instances are padded (`pad_tasks`).

    Example:
        >>> import torch
        >>> support = Batch(torch.zeros(2, 3), torch.tensor([0, 1]))
        >>> tasks = TaskSet.stack(Task(name, support, query=support) for name in ("first", "second"))
        >>> len(tasks), tasks.support.inputs.shape, tasks.items("query")
        (2, torch.Size([2, 2, 3]), 4)

    support, query: `inputs` [N, n, *shape] (floating point), `targets` [N, n] (class indices, int64)
    or [N, n, C] (real values, floating point).
    ids: one name per task. corrupted_support [N, n_s], corrupted_query [N, n_q]: the truth kept by a
    corruption, for detection metrics only; no learner or method reads it, and it stays on the processor.
    origins: which image of the data set each instance is, for items of level `image` and `class`.
    counts [N, 2] (int64): how many support and query instances each task holds, the first ones; what follows is
    padding of weight zero. None where there is none.
    """

    support: Batch
    query: Batch
    ids: tuple[str, ...]
    corrupted_support: Tensor = field(default=None)  # type: ignore[assignment]
    corrupted_query: Tensor = field(default=None)  # type: ignore[assignment]
    origins: Origins | None = None
    counts: Tensor | None = None

    def __post_init__(self) -> None:
        if not self.ids:
            raise InputError("A task set has no task. Give at least one Task.")
        for half in ("support", "query"):
            batch: Batch = getattr(self, half)
            batch = Batch(batch.inputs.detach(), clean_targets(half, batch.targets.detach()))
            _check_half(half, batch, self.ids)
            object.__setattr__(self, half, batch)
            if getattr(self, f"corrupted_{half}") is None:
                clean = torch.zeros(batch.targets.shape[:2], dtype=torch.bool)
                object.__setattr__(self, f"corrupted_{half}", clean)
        if self.support.targets.shape[2:] != self.query.targets.shape[2:]:
            support, query = (tuple(half.targets.shape) for half in (self.support, self.query))
            raise InputError(
                f"Support targets are {support}, query targets {query}: both halves need the same kind. Give "
                "classes [N, n] in both, or real values [N, n, C]."
            )
        if len(set(self.ids)) != len(self.ids):
            twice = next(name for name in self.ids if self.ids.count(name) > 1)
            raise InputError(f"Two tasks are called {twice!r}. Give every task an id of its own.")
        devices = sorted({str(t.device) for half in (self.support, self.query) for t in (half.inputs, half.targets)})
        types = sorted({str(half.inputs.dtype) for half in (self.support, self.query)})
        if len(devices) > 1 or len(types) > 1:
            differing = " and ".join(devices if len(devices) > 1 else types)
            raise InputError(
                f"The tensors of a task set are of {differing}. Move them to one device and give them one type."
            )
        if not self.real:
            check_classes(self.support.targets, self.query.targets)
        if self.counts is not None:
            _check_counts(self.counts, self.support, self.query, self.origins)
        if self.origins is not None:
            for half in ("support", "query"):
                ours, theirs = getattr(self, half).targets.shape[:2], getattr(self.origins, half).shape
                if ours != theirs:
                    raise InputError(
                        f"The origins of the {half} instances have shape {tuple(theirs)}, the instances {tuple(ours)}. "
                        "Give the number of an image for each instance."
                    )

    def _like(self, **changes: Any) -> TaskSet:
        """A copy with other fields, of values that are known to be right: part of a set need not have all classes."""
        other = copy(self)
        for name, value in changes.items():
            object.__setattr__(other, name, value)
        return other

    def spoilt(self, half: str, batch: Batch, touched: Tensor) -> TaskSet:
        """A copy with another half whose `touched` instances [N, n] (bool) are marked as corrupted."""
        return self._like(**{half: batch, f"corrupted_{half}": touched | getattr(self, f"corrupted_{half}")})

    def drawn_from(self, origins: Origins) -> TaskSet:
        """A copy whose instances come from these images. The tasks are not padded."""
        return self._like(origins=origins)

    @classmethod
    def stack(cls, tasks: Iterable[Task]) -> TaskSet:
        """Stack single tasks. Raises InputError naming the first task whose shape differs from the first one's."""
        items = list(tasks)
        if not items:
            raise InputError("There is no task to stack. Give at least one Task.")
        first = items[0]
        for task in items[1:]:
            for half in ("support", "query"):
                ours, theirs = getattr(task, half), getattr(first, half)
                for what in ("inputs", "targets"):
                    mine, other = (tuple(getattr(batch, what).shape) for batch in (ours, theirs))
                    if mine != other:
                        raise InputError(
                            f"Task {task.id!r} has {half} {what} of shape {mine}, but task {first.id!r} has {other}. "
                            "Tasks are stacked, so sample all with one way, shot and number of queries, or use "
                            "mf.pad_tasks where they differ in numbers of instances."
                        )

        def join(name: str) -> Batch:
            return Batch(
                torch.stack([getattr(task, name).inputs for task in items]),
                torch.stack([getattr(task, name).targets for task in items]),
            )

        return cls(join("support"), join("query"), tuple(task.id for task in items))

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: slice | Sequence[int] | Tensor) -> TaskSet:
        """A subset, in the order asked for."""
        numbers = torch.arange(len(self))[index if isinstance(index, slice) else torch.as_tensor(index).cpu()]
        return self._like(
            support=self.support[numbers],
            query=self.query[numbers],
            ids=tuple(self.ids[i] for i in numbers.tolist()),
            corrupted_support=self.corrupted_support[numbers],
            corrupted_query=self.corrupted_query[numbers],
            origins=None if self.origins is None else self.origins[numbers],
            counts=None if self.counts is None else self.counts[numbers],
        )

    def __repr__(self) -> str:
        support, query = (list(half.inputs.shape[1:]) for half in (self.support, self.query))
        return f"TaskSet({len(self)} tasks, support inputs {support}, query inputs {query})"

    def to(self, dtype: torch.dtype | None = None, device: torch.device | str | None = None) -> TaskSet:
        """The same tasks in another precision or on another device."""

        def move(batch: Batch) -> Batch:
            real = dtype if batch.targets.is_floating_point() else None
            return Batch(batch.inputs.to(dtype=dtype, device=device), batch.targets.to(dtype=real, device=device))

        support, query = move(self.support), move(self.query)
        pairs = ((support, self.support), (query, self.query))
        if all(new.inputs is old.inputs and new.targets is old.targets for new, old in pairs):
            return self
        return self._like(support=support, query=query)

    @property
    def dtype(self) -> torch.dtype:
        return self.support.inputs.dtype

    @property
    def device(self) -> torch.device:
        return self.support.inputs.device

    @property
    def input_shape(self) -> torch.Size:
        """Shape of one instance."""
        return self.support.inputs.shape[2:]

    @property
    def real(self) -> bool:
        """Whether targets are real values, not classes."""
        return self.support.targets.is_floating_point()

    @property
    def ways(self) -> int:
        """Number of classes: one more than the largest target. Raises InputError where targets are real values."""
        if self.real:
            raise InputError("These tasks have real targets, so they have no number of classes.")
        return int(max(half.targets.max() for half in (self.support, self.query) if half.targets.numel())) + 1

    @property
    def corrupted(self) -> Tensor:
        """[N] bool: tasks in which any instance was corrupted."""
        return self.corrupted_support.any(dim=1) | self.corrupted_query.any(dim=1)

    def held(self, half: str) -> Tensor:
        """[N, n] bool: the instances of a half, `support` or `query`, that the tasks hold; the rest is padding."""
        targets: Tensor = getattr(self, half).targets
        if self.counts is None:
            return torch.ones(targets.shape[:2], dtype=torch.bool, device=targets.device)
        each = self.counts[:, ("support", "query").index(half)].to(targets.device)
        return torch.arange(targets.shape[1], device=targets.device) < each.unsqueeze(1)

    def check_support(self) -> None:
        """Raises InputError where a class is in queries alone: no task could adapt to it."""
        support, query = self.support.targets.contiguous(), self.query.targets.contiguous()
        alone = ~torch.isin(query, support)
        if not self.real and bool(alone.any()):
            task, instance = alone.nonzero()[0].tolist()
            raise InputError(
                f"Query instance {instance} of task {self.ids[task]!r} is of class {int(query[task, instance])}, which "
                "no support has. Give the class support instances, or remove it from the queries."
            )

    def items(self, level: Level) -> int:
        """How many items a level has: tasks, the instances of a half of all tasks (with padding), images or classes."""
        if check_level(level) not in WEIGHED:
            return known_origins(self.origins, level).count(level)
        return len(self) * self.each(level)

    def each(self, level: Level) -> int:
        """How many items of a level a task has: 1 of level `task`. Raises InputError for images and classes."""
        if check_level(level) not in WEIGHED:
            raise InputError(
                f"Tasks share items of level {level!r}; they have no own ones. Take task, support or query."
            )
        return 1 if level == "task" else getattr(self, level).targets.shape[1]

    def corrupted_items(self, level: Level) -> Tensor:
        """[items] bool, numbered as `Weights` does; an image is corrupted where all its places are, a class never."""
        if check_level(level) == "task":
            return self.corrupted
        if level in WEIGHED:
            return getattr(self, f"corrupted_{level}").flatten()
        origins = known_origins(self.origins, level)
        if level == "class":
            return torch.zeros(origins.count(level), dtype=torch.bool)
        wrong = origins.gather(level, lambda inner: self.corrupted_items(inner).long())
        places = origins.gather(level, lambda inner: torch.ones(self.items(inner), dtype=torch.int64))
        return (places > 0) & (wrong == places)

    def fingerprint(self) -> str:
        """A hash of everything a result can depend on: ids, values, shapes and types."""
        digest = hashlib.sha256("\0".join(self.ids).encode())
        for tensor in (self.support.inputs, self.support.targets, self.query.inputs, self.query.targets):
            parts = tensor.parts() if isinstance(tensor, StoredInputs) else [tensor]
            hash_parts(digest, tensor.dtype, tensor.shape, parts)
        if self.counts is not None:
            hash_tensor(digest, self.counts)
        if self.origins is not None:
            digest.update(self.origins.fingerprint().encode())
        return digest.hexdigest()[:16]


def _check_counts(counts: Tensor, support: Batch, query: Batch, origins: Origins | None) -> None:
    most = torch.tensor([support.targets.shape[1], query.targets.shape[1]])
    if counts.dtype != torch.int64 or counts.shape != (len(support.targets), 2):
        raise InputError(
            f"The counts of a task set are {counts.dtype} {list(counts.shape)}. Give int64 [N, 2], the numbers of "
            "support and of query instances of each task."
        )
    if bool(((counts < 1) | (counts > most)).any()):
        raise InputError(
            f"The counts of a task set have numbers that are not between 1 and {most.tolist()}, the instances that "
            "there are. mf.pad_tasks counts them."
        )
    if origins is not None:
        raise InputError("Padded tasks have no origins. Leave origins out, or give tasks of one size.")


def _check_half(half: str, batch: Batch, ids: tuple[str, ...]) -> None:
    inputs, targets = batch.inputs, batch.targets
    if inputs.shape[0] != len(ids) or inputs.shape[:2] != targets.shape[:2]:
        raise InputError(
            f"The {half} half has inputs {tuple(inputs.shape)} and targets {tuple(targets.shape)} for {len(ids)} ids. "
            "Give inputs [N, n, ...], and targets [N, n] of classes or [N, n, C] of real values."
        )
    if not inputs.is_floating_point():
        raise InputError(f"The {half} inputs are {inputs.dtype}. Convert them to floating point, scaled to about 1.")
    if not isinstance(inputs, StoredInputs):  # they were checked when they were written
        _check_finite(half, "inputs", inputs, ids)
    if targets.is_floating_point():
        _check_finite(half, "targets", targets, ids)


def _check_finite(half: str, what: str, values: Tensor, ids: tuple[str, ...]) -> None:
    finite = values.isfinite().flatten(2).all(dim=2) if values.dim() > 2 else values.isfinite()
    if not bool(finite.all()):
        task, instance = (~finite).nonzero()[0].tolist()
        of = "" if what == "inputs" else " as targets"
        raise InputError(
            f"Task {ids[task]!r} has NaN or infinite values in {half} instance {instance}{of}. "
            "Remove or fill them before building the task."
        )

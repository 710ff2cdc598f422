"""Tasks that differ in numbers of instances, padded to one shape."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from metafluence.errors import InputError
from metafluence.tasks.levels import Level
from metafluence.tasks.task_set import Batch, Task, TaskSet


def pad_tasks(tasks: Iterable[Task]) -> TaskSet:
    """Stack tasks that may differ in numbers of support and of query instances.

    What a task lacks is filled with copies of the first instance of its half. Padding has weight zero, and the n_i
    instances of a task have weight n / n_i (`Weights.ones`), so that losses, gradients, influence and retraining are
    those of the tasks as they are. `counts` says how many instances each task holds. Tasks of one size are not padded.

    Raises InputError naming a task without instances in a half, or whose instances have another shape than others'.

    Example:
        >>> import torch
        >>> def half(n):
        ...     return Batch(torch.randn(n, 3), torch.arange(n) % 2)
        >>> tasks = pad_tasks([Task("small", half(2), half(2)), Task("large", half(5), half(3))])
        >>> tasks.support.inputs.shape, tasks.counts.tolist()
        (torch.Size([2, 5, 3]), [[2, 2], [5, 3]])
    """
    items = [] if isinstance(tasks, TaskSet) else list(tasks)
    if isinstance(tasks, TaskSet) or not all(isinstance(task, Task) for task in items):
        given = type(next((task for task in items if not isinstance(task, Task)), tasks)).__name__
        raise InputError(f"pad_tasks was given a {given}. Give Task objects: Task(id, support, query).")
    for task in items:
        for name, half in (("support", task.support), ("query", task.query)):
            if not half.targets.dim() or not len(half.targets) or len(half.inputs) != len(half.targets):
                raise InputError(
                    f"Task {task.id!r} has {name} inputs {list(half.inputs.shape)} and targets "
                    f"{list(half.targets.shape)}. Give both halves of a task one or more instances, with a target each."
                )
    counts = torch.tensor([[len(task.support.targets), len(task.query.targets)] for task in items], dtype=torch.int64)
    if not items or bool((counts == counts[0]).all()):
        return TaskSet.stack(items)
    supports, queries = (_padded([getattr(task, half) for task in items]) for half in ("support", "query"))
    padded = [Task(task.id, *halves) for task, *halves in zip(items, supports, queries, strict=True)]
    stacked = TaskSet.stack(padded)
    return TaskSet(stacked.support, stacked.query, stacked.ids, counts=counts)


def check_whole(tasks: TaskSet, levels: Sequence[Level]) -> None:
    """Raises InputError where padding would be counted among the items of a level."""
    level = next((level for level in levels if level in ("support", "query")), None)
    if tasks.counts is not None and level is not None:
        raise InputError(
            f"The tasks differ in numbers of instances, so that items of level {level!r} are not all real in a study. "
            "Use levels: [task], or score instances with mf.attribute."
        )


def widened(values: Tensor, most: int) -> Tensor:
    """Values [N, n, ...] of instances with `most` a task, those that lack by copies of the task's first one."""
    return torch.cat([values, values[:, :1].expand(-1, most - values.shape[1], *values.shape[2:])], dim=1)


def _padded(halves: Sequence[Batch]) -> list[Batch]:
    most = max(len(half.targets) for half in halves)
    return [Batch(*(widened(part.unsqueeze(0), most)[0] for part in (h.inputs, h.targets))) for h in halves]

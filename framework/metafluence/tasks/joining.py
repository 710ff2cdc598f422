"""Two sets of tasks as one."""

from __future__ import annotations

import torch

from metafluence.errors import InputError
from metafluence.tasks.task_set import Batch, TaskSet


def join_tasks(first: TaskSet, second: TaskSet) -> TaskSet:
    """The tasks of both, the first ones first; what images they come from is left out.

    Raises InputError where they differ in shape, are padded, or two tasks have one id.
    """
    if first.counts is not None or second.counts is not None:
        raise InputError("Padded tasks cannot be joined. Stack all tasks at once: mf.pad_tasks(tasks).")

    def half(name: str) -> Batch:
        ours, theirs = getattr(first, name), getattr(second, name)
        for what in ("inputs", "targets"):
            shapes = [list(getattr(batch, what).shape[1:]) for batch in (ours, theirs)]
            if shapes[0] != shapes[1]:
                raise InputError(
                    f"The tasks have {name} {what} of shape {shapes[0]} and {shapes[1]} each. Sample all with one way, "
                    "shot and number of queries."
                )
        return Batch(torch.cat([ours.inputs, theirs.inputs]), torch.cat([ours.targets, theirs.targets]))

    def marks(name: str) -> torch.Tensor:
        return torch.cat([getattr(first, f"corrupted_{name}"), getattr(second, f"corrupted_{name}")])

    return TaskSet(half("support"), half("query"), first.ids + second.ids, marks("support"), marks("query"))

"""Groups of items: index sets that are removed together, such as all of a task's instances or all of one class's."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from metafluence.errors import InputError
from metafluence.tasks import Level, Removal, TaskSet, check_removals


def by_task(tasks: TaskSet, level: Level) -> list[Removal]:
    """For each task in turn, its items of the level; padding is none."""
    numbers = _numbers(tasks, level)
    held = numbers >= 0 if level == "task" else tasks.held(level).cpu()
    return [tuple(own[there].tolist()) for own, there in zip(numbers, held, strict=True)]


def by_class(tasks: TaskSet, level: Level) -> dict[tuple[str, int], Removal]:
    """For each task's id and each class that occurs there, the instances of that class.

    A class is one of its task's: label 0 of two tasks is not the same thing. Raises InputError for level `task`
    and for real targets.
    """
    if level == "task":
        raise InputError("A task has no class of its own. Group items of level support or query.")
    if tasks.real:
        raise InputError("These tasks have real targets, which are no classes. Group items with by_task.")
    targets = getattr(tasks, level).targets
    found: dict[tuple[str, int], Removal] = {}
    numbered = zip(tasks.ids, _numbers(tasks, level), targets, tasks.held(level), strict=True)
    for name, numbers, labels, held in numbered:
        for label in labels.unique().tolist():
            found[name, label] = tuple(numbers[held & (labels == label)].tolist())
    return found


def group_scores(scores: Tensor, groups: Sequence[Removal], level: Level = "task") -> Tensor:
    """Scores [groups, T] from those of items [n, T], by additivity; an item named twice in a group counts once.

    The joint solve of a group is a method's `parameter_change(state, groups)`; the two agree where the method is
    `additive`, and differ for those that leave the removed items' own curvature out.
    """
    groups = check_removals(groups, len(scores), level)
    return torch.stack([scores[list(group)].sum(dim=0) for group in groups])


def _numbers(tasks: TaskSet, level: Level) -> Tensor:
    """The items' numbers, [N, per task]."""
    return torch.arange(tasks.items(level)).reshape(len(tasks), tasks.each(level))

"""The weights of items. A removed item is an item of weight zero; nothing is ever cut out of a tensor."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from metafluence.errors import InputError
from metafluence.runtime import hash_tensor
from metafluence.tasks.items import check_items, check_level
from metafluence.tasks.levels import LEVELS, Level, Removal
from metafluence.tasks.task_set import TaskSet


@dataclass(frozen=True)
class Weights:
    """Weights of tasks [N], support instances [N, n_s] and query instances [N, n_q]; all one in the real study.

    Example:
        >>> from metafluence.testing.worlds import world
        >>> Weights.ones(world(0).problem.tasks).without("task", [1, 3]).task
        tensor([1., 0., 1., 0., 1., 1., 1.], dtype=torch.float64)
    """

    task: Tensor
    support: Tensor
    query: Tensor

    def __post_init__(self) -> None:
        for level in LEVELS:
            weights: Tensor = getattr(self, level)
            if weights.dim() != (1 if level == "task" else 2) or len(weights) != len(self.task):
                raise InputError(
                    f"The {level} weights have shape {tuple(weights.shape)} beside {len(self.task)} task weights. "
                    "Give task weights [N], support and query weights [N, n]."
                )
            if not weights.is_floating_point():
                raise InputError(f"The {level} weights are {weights.dtype}. Convert them to floating point.")
            wrong = ~(weights.detach().isfinite() & (weights.detach() >= 0)).flatten()
            if bool(wrong.any()):
                item = int(wrong.nonzero()[0])
                raise InputError(
                    f"The weight of {level} item {item} is {float(weights.flatten()[item])}. Give a "
                    "finite number of 0 or more."
                )

    @classmethod
    def ones(cls, tasks: TaskSet) -> Weights:
        def one(*shape: int) -> Tensor:
            return torch.ones(shape, dtype=tasks.dtype, device=tasks.device)

        return cls(one(len(tasks)), one(*tasks.support.targets.shape[:2]), one(*tasks.query.targets.shape[:2]))

    def set(self, level: Level, items: int | Sequence[int] | Tensor, value: float) -> Weights:
        """A copy in which the named items have weight `value`.

        Items of level `support` and `query` are numbered task by task: task i's instance j is i * n + j.
        """
        if isinstance(value, bool) or not 0 <= value < float("inf"):
            raise InputError(f"The weight of an item is {value!r}. Give a finite number of 0 or more.")
        flat = getattr(self, check_level(level)).clone().reshape(-1)
        flat[list(check_items(items, flat.numel(), level))] = value
        return replace(self, **{level: flat.reshape(getattr(self, level).shape)})

    def scaled(self, level: Level, items: int | Sequence[int] | Tensor, weight: float) -> Weights:
        """A copy in which the weights of the named items are multiplied by `weight`, each once."""
        own, kept = getattr(self, level), getattr(self.without(level, items), level)
        return replace(self, **{level: kept + weight * (own - kept)})

    def without(self, level: Level, items: int | Sequence[int] | Tensor) -> Weights:
        """A copy in which the named items are removed: their weight is zero."""
        return self.set(level, items, 0.0)

    def items_of(self, level: Level, tasks: Tensor) -> Tensor:
        """The numbers of a level's items in the tasks numbered `tasks` [b], task after task."""
        if check_level(level) == "task":
            return tasks
        each = getattr(self, level).shape[1]
        return (tasks.unsqueeze(1) * each + torch.arange(each, device=tasks.device)).flatten()

    def within(self, level: Level, tasks: Tensor, removals: Sequence[Removal]) -> list[Removal]:
        """The part of each removal that lies in the tasks numbered `tasks` [b], as items of these tasks alone."""
        here = {item: at for at, item in enumerate(self.items_of(level, tasks).tolist())}
        return [tuple(here[item] for item in removal if item in here) for removal in removals]

    def __getitem__(self, index: slice | Tensor) -> Weights:
        part = copy(self)  # of what has been checked
        for level in LEVELS:
            object.__setattr__(part, level, getattr(self, level)[index])
        return part

    def fingerprint(self) -> str:
        digest = hashlib.sha256()
        for tensor in (self.task, self.support, self.query):
            hash_tensor(digest, tensor)
        return digest.hexdigest()[:16]

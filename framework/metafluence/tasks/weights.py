"""Tasks and their weights: everything the objective sums over, stacked into tensors.

A removed item is an item of weight zero (one idea: every item is a weight); nothing is ever cut out of a tensor.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from metafluence.errors import InputError
from metafluence.runtime import hash_tensor
from metafluence.tasks.levels import LEVELS, Level
from metafluence.tasks.task_set import TaskSet


@dataclass(frozen=True)
class Weights:
    """Weights of tasks [N], support instances [N, n_s] and query instances [N, n_q]; all one in the real study."""

    task: Tensor
    support: Tensor
    query: Tensor

    @classmethod
    def ones(cls, tasks: TaskSet) -> Weights:
        def one(*shape: int) -> Tensor:
            return torch.ones(shape, dtype=tasks.dtype, device=tasks.device)

        return cls(one(len(tasks)), one(*tasks.support.targets.shape[:2]), one(*tasks.query.targets.shape[:2]))

    def set(self, level: Level, items: int | Sequence[int] | Tensor, value: float) -> Weights:
        """A copy in which the named items have weight `value`.

        Items of level `support` and `query` are numbered task by task: task i's instance j is i * n + j.
        """
        if level not in LEVELS:
            raise InputError(f"There is no level {level!r}. Levels are {', '.join(LEVELS)}.")
        flat = getattr(self, level).clone().reshape(-1)
        index = torch.as_tensor(items, device=flat.device).reshape(-1)
        if index.numel() and (int(index.max()) >= flat.numel() or int(index.min()) < 0):
            raise InputError(
                f"There is no {level} item {int(index.max() if index.max() >= flat.numel() else index.min())}: "
                f"items run from 0 to {flat.numel() - 1}."
            )
        flat[index] = value
        return replace(self, **{level: flat.reshape(getattr(self, level).shape)})

    def scaled(self, level: Level, items: int | Sequence[int] | Tensor, factor: float) -> Weights:
        """A copy in which the weights of the named items are multiplied by `factor`, each once."""
        own, kept = getattr(self, level), getattr(self.without(level, items), level)
        return replace(self, **{level: kept + factor * (own - kept)})

    def without(self, level: Level, items: int | Sequence[int] | Tensor) -> Weights:
        """A copy in which the named items are removed: their weight is zero."""
        return self.set(level, items, 0.0)

    def __getitem__(self, index: slice | Tensor) -> Weights:
        return Weights(self.task[index], self.support[index], self.query[index])

    def fingerprint(self) -> str:
        digest = hashlib.sha256()
        for tensor in (self.task, self.support, self.query):
            hash_tensor(digest, tensor)
        return digest.hexdigest()[:16]

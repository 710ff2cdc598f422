"""The gradient of a loop that calls a shared encoder on more instances at once than one task's support or query."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from metafluence.bilevel import BilevelProblem
from metafluence.tasks import Batch, Weights

Encode = Callable[[Tensor], Tensor]


def _each_task(encode: Encode, support: Tensor, query: Tensor) -> tuple[Tensor, Tensor]:
    both = torch.stack([encode(task) for task in torch.cat([support, query], dim=1)])
    return both[:, : support.shape[1]], both[:, support.shape[1] :]


def _each_half(encode: Encode, support: Tensor, query: Tensor) -> tuple[Tensor, Tensor]:
    first, second = (encode(half.flatten(0, 1)).unflatten(0, half.shape[:2]) for half in (support, query))
    return first, second


def _all(encode: Encode, support: Tensor, query: Tensor) -> tuple[Tensor, Tensor]:
    both = torch.cat([support, query], dim=1)
    features = encode(both.flatten(0, 1)).unflatten(0, both.shape[:2])
    return features[:, : support.shape[1]], features[:, support.shape[1] :]


TOGETHER = {
    "support and query of a task": _each_task,
    "supports of all tasks, and their queries,": _each_half,
    "all instances of a step": _all,
}
"""What a loop may encode in one call, and how: inputs [N, n, *shape] to features [N, n, ...] of both halves."""


def together_gradient(problem: BilevelProblem, meta: Tensor, what: str) -> Tensor:
    """The mean of the tasks' total gradients at `meta` [P], `what` of TOGETHER encoded in one call."""
    learner, tasks, ones = problem.learner, problem.tasks, Weights.ones(problem.tasks)
    leaf = meta.detach().requires_grad_()
    inputs = tasks.support.inputs, tasks.query.inputs
    support, query = TOGETHER[what](lambda instances: learner.encode(leaf, instances), *inputs)
    rows = leaf[learner.own].expand(len(tasks), -1)
    adapted = learner.unroll(rows, Batch(support, tasks.support.targets), ones.support, track=True)
    losses = learner.outer_loss(rows, adapted, Batch(query, tasks.query.targets), ones.query)
    return torch.autograd.grad(losses.mean(), leaf)[0]

"""Query instances one by one, from their own features: where θ is held, one pass through the encoder is enough."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from metafluence.learners import MetaLearner
from metafluence.networks import depends_on, gradients
from metafluence.tasks import Batch


@dataclass(frozen=True, eq=False)
class QueryAlone:
    """The losses of n tasks' query instances with θ held, as functions of their features.

    rows: λ of every task [n, R]. adapted: θ [n, Q]. query: inputs [n, n_q, *shape] and targets. weights: w of the tasks
    [n].
    """

    learner: MetaLearner
    rows: Tensor
    adapted: Tensor
    query: Batch
    weights: Tensor

    def separates(self, meta: Tensor) -> bool:
        """Whether an instance's loss depends on λ through its own features alone."""
        learner = self.learner
        if learner.mixes_instances or not learner.encodes:
            return False
        features = learner.encode(meta.detach(), self.query.inputs[:1, 0])
        row = self.rows[:1].detach().requires_grad_()
        with torch.enable_grad():
            one = Batch(features.unsqueeze(1), self.query.targets[:1, :1])
            loss = learner.outer_loss(row, self.adapted[:1], one, torch.ones_like(self.weights[:1]).unsqueeze(1))
            return not depends_on(loss.sum(), row)

    def cotangents(self, features: Tensor, some: slice) -> Tensor:
        """w_i ∂(ℓ_j/n_q)/∂Z_j of the instances `some`, counted task by task, at their features: [1, m, ...]."""
        each = self.query.targets.shape[1]
        tasks = torch.arange(some.start, some.stop, device=features.device) // each
        leaf = features.detach().requires_grad_()
        with torch.enable_grad():
            own = Batch(leaf.unsqueeze(1), self.query.targets.flatten(0, 1)[some].unsqueeze(1))
            ones = torch.ones_like(self.weights[tasks]).unsqueeze(1)
            losses = self.learner.outer_loss(self.rows[tasks], self.adapted[tasks], own, ones)
            (found,) = gradients((losses * self.weights[tasks] / each).sum(), [leaf])
        return found.unsqueeze(0)

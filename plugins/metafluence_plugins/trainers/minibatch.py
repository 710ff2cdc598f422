"""Meta-training on minibatches of tasks, with checkpoints: what `adam` and `sgd` share."""

from __future__ import annotations

import time
from abc import abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from metafluence import BilevelProblem, Checkpoint, Fit, Progress, Trainer, Weights


@dataclass(frozen=True)
class Minibatch(Trainer):
    """Steps on minibatches of `batch` tasks; the objective is scaled to the mean over tasks.

    checkpoints: how many are kept, evenly spaced, the last included. The gradient norm of the fit is the full
    objective's; converged if it is below `tolerance`, which minibatches rarely reach: the report says so.
    """

    steps: int = 500
    batch: int = 16
    learning_rate: float = 1e-2
    checkpoints: int = 5
    tolerance: float = 1e-3

    @abstractmethod
    def optimiser(self, meta: Tensor) -> torch.optim.Optimizer:
        """What makes the steps."""

    def fit(
        self,
        problem: BilevelProblem,
        weights: Weights | None = None,
        init: Tensor | None = None,
        generator: torch.Generator | None = None,
        progress: Progress | None = None,
    ) -> Fit:
        started = time.perf_counter()
        weights = weights or Weights.ones(problem.tasks)
        meta = (problem.learner.init_meta(generator) if init is None else init).clone().requires_grad_()
        optimiser = self.optimiser(meta)
        count = len(problem.tasks)
        size = min(self.batch, count)
        kept = {round((i + 1) * self.steps / self.checkpoints) for i in range(self.checkpoints)}
        found: list[Checkpoint] = []
        for step in range(1, self.steps + 1):
            chosen = torch.randperm(count, generator=generator)[:size].sort().values
            batch = problem.over(problem.tasks[chosen])
            part = Weights(weights.task[chosen], weights.support[chosen], weights.query[chosen])
            gradient = batch.at(meta.detach(), part).gradient / size
            meta.grad = gradient + problem.l2 / count * meta.detach()
            before = meta.detach().clone()
            optimiser.step()
            if step in kept:
                found.append(Checkpoint(step, self.learning_rate / count, meta.detach().clone(), before))
            if progress is not None:
                progress(step, self.steps, float(gradient.norm()))
        final = meta.detach().clone()
        norm = float(problem.at(final, weights).gradient.norm())
        seconds = time.perf_counter() - started
        return Fit(final, norm, norm <= self.tolerance, self.steps, 0, seconds, tuple(found))

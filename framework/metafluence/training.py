"""Meta-training: what a trainer and a fit are. Retraining without an item is a fit with its weight at zero."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from metafluence.problem import BilevelProblem
from metafluence.tasks import Weights

Progress = Callable[[int, int, float], None]
"""Given after each step: steps done, steps at most, and the gradient's norm (or the minibatch loss, for Adam)."""


@dataclass(frozen=True)
class Checkpoint:
    """Meta-parameters [P] after `step` steps, and the learning rate in force there, for steps along the sum F.

    before: the meta-parameters [P] before the last of these steps, where its gradient was taken; None if not kept.
    """

    step: int
    learning_rate: float
    meta: Tensor
    before: Tensor | None = None

    @property
    def taken_at(self) -> Tensor:
        """Where the step's gradient was taken, [P]; `meta` if that was not kept."""
        return self.meta if self.before is None else self.before


@dataclass(frozen=True)
class Fit:
    """λ* and how it was reached.

    gradient_norm: ‖∇F‖ at `meta`. converged: it is below the trainer's tolerance. products: Hessian products used.
    """

    meta: Tensor
    gradient_norm: float
    converged: bool
    steps: int
    products: int
    seconds: float
    checkpoints: tuple[Checkpoint, ...] = ()


class Trainer(ABC):
    """Minimises F. A frozen dataclass: its fields are its configuration."""

    @abstractmethod
    def fit(
        self,
        problem: BilevelProblem,
        weights: Weights | None = None,
        init: Tensor | None = None,
        generator: torch.Generator | None = None,
        progress: Progress | None = None,
    ) -> Fit:
        """Fit from `init` [P] (a warm start), or from fresh meta-parameters drawn from `generator`."""

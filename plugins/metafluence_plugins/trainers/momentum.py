"""Minibatch meta-training with SGD and momentum."""

from __future__ import annotations

from dataclasses import dataclass

from metafluence import Decay, MomentumStep, Positive, StepRule
from metafluence_plugins.trainers.minibatch import Minibatch


@dataclass(frozen=True)
class Momentum(Minibatch):
    """Stochastic gradient descent with momentum on minibatches of tasks, as torch's SGD; `nesterov` looks ahead."""

    learning_rate: Positive = 0.1
    momentum: Decay = 0.9
    nesterov: bool = False

    @property
    def rule(self) -> StepRule:
        return MomentumStep(
            momentum=self.momentum, nesterov=self.nesterov, weight_decay=self.weight_decay, clip=self.clip
        )

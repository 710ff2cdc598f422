"""Minibatch meta-training with SGD."""

from __future__ import annotations

from dataclasses import dataclass

from metafluence import Positive, SGDStep, StepRule
from metafluence_plugins.trainers.minibatch import Minibatch


@dataclass(frozen=True)
class SGD(Minibatch):
    """Plain stochastic gradient descent on minibatches of tasks: the steps that tracin undoes are these."""

    learning_rate: Positive = 0.1

    @property
    def rule(self) -> StepRule:
        return SGDStep(weight_decay=self.weight_decay, clip=self.clip)

"""Minibatch meta-training with RMSprop."""

from __future__ import annotations

from dataclasses import dataclass

from metafluence import Decay, NonNegative, RMSpropStep, StepRule
from metafluence_plugins.trainers.minibatch import Minibatch


@dataclass(frozen=True)
class RMSprop(Minibatch):
    """RMSprop (Hinton 2012) on minibatches of tasks. eps_root: added inside the square root, as in `adam`."""

    alpha: Decay = 0.99
    eps: NonNegative = 1e-8
    eps_root: NonNegative = 0.0

    @property
    def rule(self) -> StepRule:
        return RMSpropStep(
            alpha=self.alpha, eps=self.eps, eps_root=self.eps_root, weight_decay=self.weight_decay, clip=self.clip
        )

"""Minibatch meta-training with Adam."""

from __future__ import annotations

from dataclasses import dataclass

from metafluence import AdamStep, Decay, NonNegative, StepRule
from metafluence_plugins.trainers.minibatch import Minibatch


@dataclass(frozen=True)
class Adam(Minibatch):
    """Adam (Kingma and Ba 2015) on minibatches of tasks.

    eps_root: added inside the square root of the second moment; 1e-3 to 1e-2 make a run whose end is smooth in the
    weights of its items.
    """

    beta1: Decay = 0.9
    beta2: Decay = 0.999
    eps: NonNegative = 1e-8
    eps_root: NonNegative = 0.0

    @property
    def rule(self) -> StepRule:
        return AdamStep(
            beta1=self.beta1,
            beta2=self.beta2,
            eps=self.eps,
            eps_root=self.eps_root,
            weight_decay=self.weight_decay,
            clip=self.clip,
        )

"""Minibatch meta-training with AdamW."""

from __future__ import annotations

from dataclasses import dataclass, replace

from metafluence import NonNegative, StepRule
from metafluence_plugins.trainers.adam import Adam


@dataclass(frozen=True)
class AdamW(Adam):
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019) on minibatches of tasks."""

    weight_decay: NonNegative = 0.01

    @property
    def rule(self) -> StepRule:
        return replace(super().rule, decoupled=True)

"""Minibatch meta-training with Adam."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from metafluence_plugins.trainers.minibatch import Minibatch


@dataclass(frozen=True)
class Adam(Minibatch):
    """Adam (Kingma and Ba 2015) on minibatches of tasks."""

    def optimiser(self, meta: Tensor) -> torch.optim.Optimizer:
        return torch.optim.Adam([meta], lr=self.learning_rate)

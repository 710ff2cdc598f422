"""Minibatch meta-training with SGD."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from metafluence_plugins.trainers.minibatch import Minibatch


@dataclass(frozen=True)
class SGD(Minibatch):
    """Plain stochastic gradient descent on minibatches of tasks: the steps that tracin undoes are these."""

    learning_rate: float = 0.1

    def optimiser(self, meta: Tensor) -> torch.optim.Optimizer:
        return torch.optim.SGD([meta], lr=self.learning_rate)

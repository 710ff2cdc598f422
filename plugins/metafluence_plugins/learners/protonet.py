"""Prototypical networks (Snell et al. 2017), with prototypes as the optimum of an inner problem."""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass
from typing import ClassVar, Literal, Self

import torch
from torch import Tensor, nn

from metafluence import (
    PSD,
    SYMMETRIC,
    Adaptation,
    Backbone,
    Batch,
    DenseOperator,
    FeatureLearner,
    ImplicitLearner,
    NonNegative,
    Positive,
    RemovalError,
    TaskSet,
    Ways,
    weighted_mean,
)


@dataclass(frozen=True, eq=False)
class ProtoNet(FeatureLearner, ImplicitLearner):
    """Meta-parameters: the backbone. Adapted: a prototype for every class, [C, d], flattened.

    inner_loss = mean ½ ‖z_j − prototype of j's class‖² over the support + shrinkage/2 ‖prototypes‖², whose optimum is
    the classes' weighted means where shrinkage is 0. With shrinkage 0 a class must keep an instance: to remove the only
    one of a class, give a little shrinkage. A class is as likely as exp(−distance / temperature). distance: `squared`,
    ‖z − prototype‖², as in the paper; or `euclidean`, ‖z − prototype‖, as in easyfsl.
    differentiation: `unrolled` goes through the means by autograd, `implicit` through the inner Hessian.
    together: batch norm takes a task's support and query together, as in the paper's code; else each alone.
    """

    backbone: Backbone | nn.Module
    shrinkage: NonNegative = 0.0
    temperature: Positive = 1.0
    distance: Literal["squared", "euclidean"] = "squared"
    differentiation: Literal["unrolled", "implicit"] = "unrolled"
    together: bool = False
    ways: Ways | None = None

    regresses: ClassVar[bool] = False

    @property
    def unrolls(self) -> bool:
        return self.differentiation == "unrolled"

    @property
    def encodes_together(self) -> bool:
        return self.together

    @property
    def adapted_size(self) -> int:
        return (self.ways or 0) * self.width

    def for_tasks(self, tasks: TaskSet) -> Self:
        """With as many prototypes as these tasks have classes: a network of 30-way training is judged 5-way.

        Not with a shrinkage, where a class that a task has not got has a prototype at zero.
        """
        if self.shrinkage or tasks.ways == self.ways:
            return self
        other = copy(self)
        object.__setattr__(other, "ways", tasks.ways)
        return other

    def predict(self, rows: Tensor, adapted: Tensor, inputs: Tensor) -> Tensor:
        prototypes = adapted.unflatten(-1, (self.ways or 0, -1))
        if self.distance == "euclidean":
            squares = (inputs.unsqueeze(-2) - prototypes.unsqueeze(-3)).square().sum(dim=-1)
            floor = (
                torch.finfo(squares.dtype).eps ** 2
            )  # below it the distance is held, as a root has no derivative at 0
            return -squares.clamp(min=floor).sqrt() / self.temperature
        # ‖z‖² is common to all classes; without it, no [n, m, C, d] is needed.
        return (2 * inputs @ prototypes.mT - prototypes.square().sum(dim=-1).unsqueeze(-2)) / self.temperature

    def inner_loss(self, rows: Tensor, adapted: Tensor, support: Batch, weights: Tensor) -> Tensor:
        own = self._members(support) @ adapted.unflatten(-1, (self.ways or 0, -1))
        distances = (support.inputs - own).square().sum(dim=-1) / 2
        return weighted_mean(distances, weights) + self.shrinkage / 2 * adapted.square().sum(dim=-1)

    def inner_hessian(self, rows: Tensor, adapted: Tensor, support: Batch, weights: Tensor) -> DenseOperator:
        """Diagonal: Σ of s_j/n over each class, + shrinkage."""
        mass = self._mass(support, weights.detach()).repeat_interleave(self.width, dim=1)
        return DenseOperator(torch.diag_embed(mass), frozenset({SYMMETRIC, PSD}))

    def unroll(self, rows: Tensor, support: Batch, weights: Tensor, track: bool) -> Tensor:
        scaled = (weights / weights.shape[-1]).unsqueeze(-1)
        totals = self._members(support).mT @ (scaled * support.inputs)
        return (totals / self._mass(support, weights).unsqueeze(-1)).flatten(1)

    def adapt(self, rows: Tensor, support: Batch, weights: Tensor, init: Tensor | None) -> Adaptation:
        means = self.unroll(rows, support, weights, track=False)
        return Adaptation.by_steps(means, 1)

    def _members(self, support: Batch) -> Tensor:
        """[n, n_s, C]: one where an instance is of a class."""
        return torch.nn.functional.one_hot(support.targets, self.ways or 0).to(support.inputs)

    def _mass(self, support: Batch, weights: Tensor) -> Tensor:
        """[n, C]: weight of each class over the number of instances, plus the shrinkage."""
        mass = (self._members(support) * (weights / weights.shape[-1]).unsqueeze(-1)).sum(dim=1) + self.shrinkage
        if not bool((mass > 0).all()):
            task, label = (mass <= 0).nonzero()[0].tolist()
            raise RemovalError(
                f"Class {label} of task {task} (counted within its chunk) has no support instance of positive weight, "
                "so it has no prototype. Give protonet a shrinkage above 0, or keep one instance."
            )
        return mass

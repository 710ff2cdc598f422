"""Implicit MAML: the whole network adapts, held near the meta-parameters (Rajeswaran et al. 2019)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.autograd import grad

from metafluence import (
    Adaptation,
    Backbone,
    Batch,
    InnerHessian,
    InputError,
    LayeredLoss,
    NetworkLearner,
    OutputLoss,
    SoftmaxLoss,
    cross_entropy,
    layered_loss,
    minimise_lbfgs,
    minimise_newton,
    weighted_mean,
)
from metafluence_plugins.learners.joint import Joint

# Above this many parameters a dense Hessian per task costs more than it saves.
NEWTON_LIMIT = 400


@dataclass(frozen=True, eq=False)
class IMAML(NetworkLearner):
    """Meta-parameters and adapted ones are both the whole network.

    inner_loss = mean cross-entropy over the support + proximal/2 ‖θ − λ‖². optimiser: `newton` (dense Hessians),
    `lbfgs`, `gradient` (steepest descent), or `auto`, which is newton up to 400 parameters and lbfgs above.
    tolerance: on the inner gradient's norm; None for what the optimiser can reach in this precision.
    """

    backbone: Backbone | nn.Module
    proximal: float = 1.0
    optimiser: Literal["auto", "newton", "lbfgs", "gradient"] = "auto"
    max_iterations: int = 500
    tolerance: float | None = None
    ways: int | None = None

    shares_space: ClassVar[bool] = True
    layered: ClassVar[bool] = True
    output_loss: ClassVar[OutputLoss | None] = SoftmaxLoss()

    def __post_init__(self) -> None:
        if not self.proximal > 0:
            raise InputError(f"imaml needs proximal > 0 to hold θ near λ; it is {self.proximal}. Try 1.0.")

    @property
    def adapted_size(self) -> int:
        return self.network.size

    def predict(self, rows: Tensor, adapted: Tensor, inputs: Tensor) -> Tensor:
        return self.network.stacked(adapted, inputs)

    def inner_loss(self, rows: Tensor, adapted: Tensor, support: Batch, weights: Tensor) -> Tensor:
        losses = cross_entropy(self.predict(rows, adapted, support.inputs), support.targets)
        return weighted_mean(losses, weights) + self.proximal / 2 * (adapted - rows).square().sum(dim=-1)

    def inner_layers(self, rows: Tensor, adapted: Tensor, support: Batch, weights: Tensor) -> LayeredLoss:
        scaled = weights / weights.shape[-1]
        parts = (support.inputs, support.targets, scaled, SoftmaxLoss(), self.proximal)
        return layered_loss(self.network, adapted, *parts)

    def outer_loss(self, rows: Tensor, adapted: Tensor, query: Batch, weights: Tensor) -> Tensor:
        return weighted_mean(cross_entropy(self.predict(rows, adapted, query.inputs), query.targets), weights)

    def unadapted(self) -> Joint:
        """The network at the meta-parameters themselves."""
        return Joint(self.backbone, self.ways)

    def adapt(self, rows: Tensor, support: Batch, weights: Tensor, init: Tensor | None) -> Adaptation:
        start = rows.clone() if init is None else init
        optimiser = self.optimiser
        if optimiser == "auto":
            optimiser = "newton" if self.adapted_size <= NEWTON_LIMIT else "lbfgs"
        eps = torch.finfo(rows.dtype).eps

        def value(adapted: Tensor) -> Tensor:
            return self.inner_loss(rows, adapted, support, weights)

        def value_and_gradient(adapted: Tensor) -> tuple[Tensor, Tensor]:
            with torch.enable_grad():
                theta = adapted.detach().requires_grad_()
                losses = value(theta)
                (gradient,) = grad(losses.sum(), theta)
            return losses.detach(), gradient

        def with_hessian(adapted: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            hessian = InnerHessian(self, rows, adapted, support, weights).dense()
            return *value_and_gradient(adapted), (hessian + hessian.mT) / 2

        if optimiser == "newton":
            found = minimise_newton(with_hessian, value, start, self.tolerance or eps**0.75, self.max_iterations)
        else:
            history = 10 if optimiser == "lbfgs" else 0
            tolerance = self.tolerance or eps**0.6
            found = minimise_lbfgs(value_and_gradient, start, tolerance, self.max_iterations, history)
        return Adaptation(found.point, found.gradient_norm, found.converged, found.iterations)

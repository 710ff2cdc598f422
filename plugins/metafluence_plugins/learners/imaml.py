"""Implicit MAML: the whole network adapts, held near the meta-parameters (Rajeswaran et al. 2019)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Literal, Self

import torch
from torch import Tensor, nn
from torch.autograd import grad

from metafluence import (
    Adaptation,
    Backbone,
    Batch,
    FlatModule,
    ImplicitLearner,
    InnerHessian,
    InputError,
    TaskSet,
    build_module,
    cross_entropy,
    minimise_lbfgs,
    minimise_newton,
    weighted_mean,
)

# Above this many parameters a dense Hessian per task costs more than it saves.
NEWTON_LIMIT = 400


@dataclass(frozen=True, eq=False)
class IMAML(ImplicitLearner):
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

    def __post_init__(self) -> None:
        if not self.proximal > 0:
            raise InputError(f"imaml needs proximal > 0 to hold θ near λ; it is {self.proximal}. Try 1.0.")

    def bind(self, tasks: TaskSet) -> Self:
        ways = self.ways if self.ways is not None else tasks.ways
        if tasks.ways > ways:
            raise InputError(f"The tasks have {tasks.ways} classes, but imaml is set to ways={ways}.")
        bound = replace(self, backbone=build_module(self.backbone, tasks.input_shape, ways), ways=ways)
        assert isinstance(bound.backbone, nn.Module)
        object.__setattr__(bound, "_bound", FlatModule(bound.backbone, tasks.dtype, tasks.device))
        return bound

    @property
    def _network(self) -> FlatModule:
        try:
            return self.__dict__["_bound"]
        except KeyError:
            raise InputError(
                "This learner does not know its tasks yet. Give it to a BilevelProblem, or call bind(tasks)."
            ) from None

    @property
    def meta_size(self) -> int:
        return self._network.size

    @property
    def adapted_size(self) -> int:
        return self._network.size

    def init_meta(self, generator: torch.Generator | None) -> Tensor:
        return self._network.initial(generator)

    def predict(self, rows: Tensor, adapted: Tensor, inputs: Tensor) -> Tensor:
        return self._network.stacked(adapted, inputs)

    def inner_loss(self, rows: Tensor, adapted: Tensor, support: Batch, weights: Tensor) -> Tensor:
        losses = cross_entropy(self.predict(rows, adapted, support.inputs), support.targets)
        return weighted_mean(losses, weights) + self.proximal / 2 * (adapted - rows).square().sum(dim=-1)

    def outer_loss(self, rows: Tensor, adapted: Tensor, query: Batch, weights: Tensor) -> Tensor:
        return weighted_mean(cross_entropy(self.predict(rows, adapted, query.inputs), query.targets), weights)

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

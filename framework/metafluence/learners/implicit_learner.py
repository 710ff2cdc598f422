"""Learners whose adapted parameters are the minimum of an inner loss."""

from __future__ import annotations

from abc import abstractmethod
from typing import Literal

import torch
from torch import Tensor
from torch.autograd import grad

from metafluence.learners.meta_learner import Adaptation, MetaLearner
from metafluence.learners.minimise import minimise_lbfgs, minimise_newton
from metafluence.linalg import LAYERED, SUM, SYMMETRIC, LinearOperator, random_groups
from metafluence.networks import LayeredLoss, LayerStack, batched_vjp
from metafluence.tasks import Batch

NEWTON_LIMIT = 400
"""Above this many parameters a dense Hessian per task costs more than it saves."""


class ImplicitLearner(MetaLearner):
    """The adapted parameters are the argmin of `inner_loss`; derivatives follow from the implicit function theorem.

    Example:
        θ is held near λ while it fits the support's targets; `inner_loss` alone says how tasks adapt:

        >>> import torch, metafluence as mf
        >>> class Proximal(mf.ImplicitLearner):
        ...     meta_size = adapted_size = 1
        ...
        ...     def init_meta(self, generator):
        ...         return torch.zeros(1, dtype=torch.float64)
        ...
        ...     def predict(self, rows, adapted, inputs):
        ...         return adapted.unsqueeze(1).expand(*inputs.shape[:2], 1)
        ...
        ...     def inner_loss(self, rows, adapted, support, weights):
        ...         outputs = self.predict(rows, adapted, support.inputs)
        ...         fit = mf.weighted_mean(mf.squared_error(outputs, support.targets), weights)
        ...         return fit + (adapted - rows).square().sum(dim=1) / 2
        ...
        ...     def outer_loss(self, rows, adapted, query, weights):
        ...         outputs = self.predict(rows, adapted, query.inputs)
        ...         return mf.weighted_mean(mf.squared_error(outputs, query.targets), weights)
        >>> half = mf.Batch(torch.zeros(1, 2, 1).double(), torch.tensor([[[1.0], [3.0]]]).double())
        >>> tasks = mf.TaskSet(half, half, ("only",))
        >>> problem = mf.BilevelProblem(Proximal(), tasks, l2=0.0, inner_solver=mf.build("solver", "exact"))
        >>> point = problem.at(torch.zeros(1, dtype=torch.float64))
        >>> point.adapted.round(decimals=6), point.hessian().dense().round(decimals=6)  # θ = (λ + 2) / 2
        (tensor([[1.]], dtype=torch.float64), tensor([[0.2500]], dtype=torch.float64))
    """

    @property
    def layered(self) -> bool:
        """It gives `inner_layers`, so that solvers that work on layers (ek-fac) can be used."""
        return False

    @abstractmethod
    def inner_loss(self, rows: Tensor, adapted: Tensor, support: Batch, weights: Tensor) -> Tensor:
        """[n]: per task, the weighted sum of support losses divided by their number, plus the regulariser."""

    def inner_start(self, rows: Tensor, support: Batch) -> Tensor:
        """Where `adapt` starts from when it is not warm: [n, Q]."""
        return rows.clone() if self.shares_space else rows.new_zeros(len(rows), self.adapted_size)

    def adapt(self, rows: Tensor, support: Batch, weights: Tensor, init: Tensor | None) -> Adaptation:
        return minimise_inner(self, rows, support, weights, init)

    def inner_hessian(self, rows: Tensor, adapted: Tensor, support: Batch, weights: Tensor) -> LinearOperator:
        """∂²_θθ inner_loss at `adapted`: an operator with batch shape (n,) and size Q."""
        return InnerHessian(self, rows, adapted, support, weights)

    def inner_layers(self, rows: Tensor, adapted: Tensor, support: Batch, weights: Tensor) -> LayeredLoss:
        """The layers behind inner_loss at `adapted`, for learners that are `layered`."""
        raise NotImplementedError

    def layer_stack(self, rows: Tensor, adapted: Tensor, support: Batch, weights: Tensor) -> LayerStack:
        """`inner_layers` of any slice of the tasks."""
        return LayerStack(
            len(rows), lambda some: self.inner_layers(rows[some], adapted[some], support[some], weights[some])
        )


Optimiser = Literal["auto", "newton", "lbfgs", "gradient"]


def minimise_inner(
    learner: ImplicitLearner,
    rows: Tensor,
    support: Batch,
    weights: Tensor,
    init: Tensor | None,
    optimiser: Optimiser = "auto",
    max_iterations: int = 500,
    tolerance: float | None = None,
) -> Adaptation:
    """The argmin of the inner loss, all tasks at once.

    optimiser: newton (dense Hessians), lbfgs, gradient (steepest descent), or auto, which is newton up to NEWTON_LIMIT
    parameters and lbfgs above. tolerance: on the gradient's norm; None for what this precision allows.
    """
    start = learner.inner_start(rows, support) if init is None else init
    if optimiser == "auto":
        optimiser = "newton" if learner.adapted_size <= NEWTON_LIMIT else "lbfgs"
    eps = torch.finfo(rows.dtype).eps

    def value(adapted: Tensor) -> Tensor:
        return learner.inner_loss(rows, adapted, support, weights)

    def value_and_gradient(adapted: Tensor) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            theta = adapted.detach().requires_grad_()
            losses = value(theta)
            (gradient,) = grad(losses.sum(), theta)
        return losses.detach(), gradient

    def with_hessian(adapted: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        hessian = learner.inner_hessian(rows, adapted, support, weights).dense()
        return *value_and_gradient(adapted), (hessian + hessian.mT) / 2

    if optimiser == "newton":
        found = minimise_newton(with_hessian, value, start, tolerance or eps**0.75, max_iterations)
    else:
        history = 10 if optimiser == "lbfgs" else 0
        found = minimise_lbfgs(value_and_gradient, start, tolerance or eps**0.6, max_iterations, history)
    return Adaptation(found.point, found.gradient_norm, found.converged, found.iterations)


class InnerHessian(LinearOperator):
    """The inner Hessians of a stack of tasks, by reverse over reverse on one kept graph."""

    def __init__(
        self, learner: ImplicitLearner, rows: Tensor, adapted: Tensor, support: Batch, weights: Tensor
    ) -> None:
        self._parts = (learner, rows, adapted, support, weights)
        self.size, self.dtype, self.device = learner.adapted_size, adapted.dtype, adapted.device
        self.batch_shape = (adapted.shape[0],)
        self.tags = frozenset({SYMMETRIC, SUM, LAYERED} if learner.layered else {SYMMETRIC, SUM})
        with torch.enable_grad():
            self._theta = adapted.detach().requires_grad_()
            loss = learner.inner_loss(rows.detach(), self._theta, support, weights).sum()
            (self._gradient,) = grad(loss, self._theta, create_graph=True)

    @property
    def structure(self) -> LayerStack | None:
        learner, *_ = self._parts
        return learner.layer_stack(*self._parts[1:]) if learner.layered else None

    def matmat(self, columns: Tensor) -> Tensor:
        (product,) = batched_vjp([self._gradient], [self._theta], [columns.movedim(-1, 0)])
        return product.movedim(0, -1)

    def split(self, count: int, generator: torch.Generator) -> list[LinearOperator]:
        """By support instances, the same ones in every task."""
        learner, rows, adapted, support, weights = self._parts
        total = weights.shape[1]
        groups = random_groups(total, count, generator)
        made: list[LinearOperator] = []
        for group in groups:
            # The part divides by its own number of instances; undo that, and scale it up to the whole.
            scale = len(groups) * len(group) / total
            some = Batch(support.inputs[:, group], support.targets[:, group])
            made.append(InnerHessian(learner, rows, adapted, some, scale * weights[:, group]))
        return made

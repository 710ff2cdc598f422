"""Training on near a given model, with items weighing less: the truth that Gauss-Newton influence answers."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch
from torch import Tensor

from metafluence.bilevel import BilevelProblem, Point
from metafluence.errors import InputError
from metafluence.learners import minimise_lbfgs
from metafluence.registry import NonNegative, check_fields
from metafluence.tasks import Weights
from metafluence.training.trainer import Fit

DENSE = 2048
"""Up to so many meta-parameters the Gauss-Newton Hessian is factorised, as a preconditioner of all fits."""
STEPS = 1000
ROUNDING = 1000
"""Gradients of which no more than so many units in the last place of their parts are left count as zero."""


@dataclass(frozen=True)
class Proximal:
    """The model without items that stays near a given one, in its outputs and in its parameters.

    With weights w, s, q at λ_T and w', s', q' without the items, it is the λ that minimises

        Σ_i w_i D_i(λ)  +  (δ + damping)/2 ‖λ − λ_T‖²  +  L(λ; w', s', q') − L(λ; w, s, q)

    where L(λ; w, s, q) = Σ_i w_i L_O(λ, θ_i(λ; s_i); q_i) is F without its l2 term, and D_i is the Bregman divergence
    of the outer loss of task i between its outputs f_i(λ) for the query, after adaptation with s, and f_i(λ_T):

        D_i(λ) = L_O(f_i(λ)) − L_O(f_i(λ_T)) − ⟨∂L_O(f_i(λ_T)), f_i(λ) − f_i(λ_T)⟩ ≥ 0.

    The last difference is minus the removed items' share of the loss. For cross-entropy D_i is the mean KL divergence
    of the predictions at λ from those at λ_T. δ/2 ‖λ − λ_T‖² is the divergence of the l2 term. With all items λ_T is
    the minimum, whether training had converged or not. Its derivative by the weight ω of an item is

        −(GGN + (δ + damping) I)⁻¹ r_ω

    with the Gauss-Newton total Hessian and the response at λ_T: what `influence` with curvature gauss-newton and this
    damping predicts. It is the proximal Bregman response function of Bae et al. 2022 (arXiv 2209.05364), for problems
    with adaptation and with items at every level.

    Args:
        damping: strength of staying near λ_T in parameters; 0 or more.
    """

    damping: NonNegative

    def __post_init__(self) -> None:
        check_fields(self)

    def near(self, problem: BilevelProblem, meta: Tensor, weights: Weights) -> NearModel:
        """Fits near λ_T = `meta` [P], where all items have `weights`.

        Raises InputError where the loss is not one of outputs, where gradients are those of no loss, and where nothing
        but the outputs holds λ.
        """
        loss = problem.learner.output_loss
        if loss is None:
            raise InputError(
                f"A proximal truth compares outputs, and {type(problem.learner).__name__} declares no output_loss. "
                "Return one from the learner, or choose another truth (minimum, run)."
            )
        if not problem.learner.exact:
            raise InputError(
                f"{type(problem.learner).__name__} is set to first-order gradients, which are those of no loss: "
                "there is nothing to minimise. Set it to exact gradients."
            )
        if not problem.l2 + self.damping > 0:
            raise InputError(
                "Without l2 and damping the proximal model is not unique. Give a damping above 0, such as that of the "
                "methods."
            )
        point = problem.at(meta, weights)
        outputs = point.predictions
        held = weights.query_shares.unsqueeze(2) * loss.observed(outputs, problem.tasks.query.targets)
        factor = None
        if len(meta) <= DENSE:
            hessian = point.hessian(form="gauss-newton").dense()
            hessian = (hessian + hessian.mT) / 2
            hessian.diagonal().add_(self.damping)
            factor = torch.linalg.cholesky(hessian)
        rounding = (
            ROUNDING * torch.finfo(meta.dtype).eps * float(_scaled(point.partial_gradient("total"), factor).norm())
        )
        return NearModel(problem, meta, weights, problem.l2 + self.damping, held, factor, rounding)


@dataclass(frozen=True, eq=False)
class NearModel:
    """Fits near one model. Can be pickled.

    meta [P]: λ_T. weights: of all items there. strength: δ + damping. held [N, n_q, C]: gradients of the weighted loss
    by the outputs at λ_T. factor [P, P]: of the Hessian there, by Cholesky; None for too many parameters.
    """

    problem: BilevelProblem
    meta: Tensor
    weights: Weights
    strength: float
    held: Tensor
    factor: Tensor | None
    rounding: float

    def fit(self, weights: Weights) -> Fit:
        """The proximal model under other weights, by L-BFGS. `gradient_norm` is that of its objective, not of F.

        Converged: the gradient, preconditioned by the Hessian at λ_T where that is factorised, has fallen to the square
        root of the precision, relative to what the removed items leave at the start.
        """
        started = time.perf_counter()
        gradient = self.meta
        last: Point | None = None

        def evaluate(steps: Tensor) -> tuple[Tensor, Tensor]:
            nonlocal gradient, last
            change = self._unscaled(steps[0])
            last = self.problem.at(self.meta + change, weights, None if last is None else last.adapted)
            value, gradient = self._evaluate(last, change)
            return value.unsqueeze(0), _scaled(gradient, self.factor).unsqueeze(0)

        start = torch.zeros_like(self.meta).unsqueeze(0)
        first = float(evaluate(start)[1].norm())
        tolerance = max(torch.finfo(self.meta.dtype).eps ** 0.5 * first, self.rounding)
        found = minimise_lbfgs(evaluate, start, tolerance, STEPS)
        evaluate(found.point)
        seconds = time.perf_counter() - started
        meta = self.meta + self._unscaled(found.point[0])
        return Fit(meta, float(gradient.norm()), bool(found.converged[0]), found.iterations, 0, seconds)

    def _evaluate(self, point: Point, change: Tensor) -> tuple[Tensor, Tensor]:
        """The objective at λ_T + change but for a constant, and its gradient [P].

        L(λ; w, s, q) stands in the sum of the divergences and is taken away again: what stays of both is linear in the
        outputs.
        """
        base = point
        if not torch.equal(point.weights.support, self.weights.support):
            base = self.problem.at(point.meta, self.weights)
        value = (point.weights.task * point.task_losses).sum() - (self.held * base.predictions).sum()
        slope = point.partial_gradient("total") - base.output_gradient(self.held)
        return value + self.strength / 2 * change.square().sum(), slope + self.strength * change

    def _unscaled(self, step: Tensor) -> Tensor:
        """A step in the coordinates of `_scaled` as one of λ."""
        if self.factor is None:
            return step
        return torch.linalg.solve_triangular(self.factor.mT, step.unsqueeze(1), upper=True).squeeze(1)


def _scaled(gradient: Tensor, factor: Tensor | None) -> Tensor:
    """The gradient in coordinates in which the factorised Hessian is the identity."""
    if factor is None:
        return gradient
    return torch.linalg.solve_triangular(factor, gradient.unsqueeze(1), upper=False).squeeze(1)

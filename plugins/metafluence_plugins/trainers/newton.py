"""Exact meta-training: L-BFGS, then a trust-region Newton-CG on the exact total Hessian."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from metafluence import (
    BilevelProblem,
    Count,
    Fit,
    InputError,
    Point,
    Positive,
    Progress,
    Record,
    Shared,
    TaskSet,
    Trainer,
    Weights,
    Whole,
    minimise_lbfgs,
    quality_at,
)

# Up to so many meta-parameters the Hessian at a common start is factorised, if its columns are fewer than the products
# that this saves: about so many in each fit (measured on single items of digits: 6 to 25 in place of 71 to 94).
DENSE = 2048
SAVED = 50


@dataclass(frozen=True)
class Newton(Trainer):
    """Reaches ‖∇F‖ ≤ tolerance, for ground truth. Needs float64 and a smooth network.

    warmup: L-BFGS steps before Newton's, skipped on a warm start unless the learner unrolls: elsewhere a gradient, for
    which all tasks adapt anew, costs more than a product. max_steps: Newton steps at most.
    The globalisation is Steihaug's truncated CG (1983): negative curvature is followed to the trust region's edge,
    so that it ends at a minimum, not at a saddle. It stops by the gradient alone: validation tasks change nothing.
    Many fits from one start, as in retraining, are preconditioned by the Hessian there. One that does not stay near,
    by a step to the trust region's edge or one that the model misjudges, is made anew without, and ends where it would.
    """

    tolerance: Positive = 1e-9
    warmup: Whole = 100
    max_steps: Whole = 100
    max_products: Count = 500

    stays_near: ClassVar[bool] = False

    def fit(
        self,
        problem: BilevelProblem,
        weights: Weights | None = None,
        init: Tensor | None = None,
        generator: torch.Generator | None = None,
        progress: Progress | None = None,
        validation: TaskSet | BilevelProblem | None = None,
        folder: str | Path | None = None,
    ) -> Fit:
        if problem.tasks.dtype != torch.float64:
            raise InputError("The trainer newton is for exact work and needs float64 tasks. Set dtype: float64.")
        started = time.perf_counter()
        weights = weights or Weights.ones(problem.tasks)
        warm = init is None or (problem.learner.unrolls and not self.stays_near)
        total = self.max_steps + (self.warmup if warm else 0)
        steps = 0
        history: list[Record] = []

        def report(step: int, at: Point, norm: float) -> None:
            history.append(Record(step, *quality_at(at), norm))
            if progress is not None:
                progress(step, total, history[-1])

        if init is None:
            init = problem.learner.init_meta(generator)
        if warm:
            init, steps = self._warm_up(problem, weights, init, report)
        point = problem.at(init, weights)
        norm = float(point.gradient.norm())
        radius, products, first = 0.1 * (1 + float(init.norm())), 0, steps
        while norm > self.tolerance and steps - first < self.max_steps and radius > 1e-14:
            forcing = min(0.1, norm**0.5)
            step, predicted, used, inside = _steihaug(
                point, radius, forcing * norm, self.max_products, self._precondition
            )
            products += used
            trial = problem.at(point.meta + step, weights, point.adapted)
            decrease = point.objective - trial.objective
            if predicted <= 1e3 * torch.finfo(torch.float64).eps * abs(point.objective):
                # The decrease drowns in rounding; the gradient still tells.
                good = 1.0 if float(trial.gradient.norm()) < norm else 0.0
            else:
                good = decrease / predicted
            if self.stays_near and not (inside and good >= 0.25):
                raise _Astray(products)
            length = float(step.norm())
            if not good >= 0.25:
                radius = 0.25 * length
            elif good > 0.75 and length > 0.99 * radius:
                radius *= 2.5
            if good > 1e-4:
                point = trial
                norm = float(point.gradient.norm())
            steps += 1
            report(steps, point, norm)
        seconds = time.perf_counter() - started
        return Fit(point.meta, norm, norm <= self.tolerance, steps, products, seconds, history=tuple(history))

    def near(self, problem: BilevelProblem, meta: Tensor, fits: int) -> Shared | None:
        if not len(meta) <= min(DENSE, SAVED * fits):
            return None
        started = time.perf_counter()
        hessian = problem.at(meta).hessian().dense()
        factor, failed = torch.linalg.cholesky_ex((hessian + hessian.mT) / 2)
        if int(failed):
            return None
        trainer = _NearNewton(self.tolerance, self.warmup, self.max_steps, self.max_products, factor)
        return Shared(trainer, time.perf_counter() - started, len(meta))

    def _precondition(self, residual: Tensor) -> Tensor:
        return residual

    def _warm_up(
        self, problem: BilevelProblem, weights: Weights, init: Tensor, report: Callable[[int, Point, float], None]
    ) -> tuple[Tensor, int]:
        last: Point | None = None

        def evaluate(meta: Tensor) -> tuple[Tensor, Tensor]:
            nonlocal last
            last = problem.at(meta[0], weights, None if last is None else last.adapted)
            gradient = last.gradient.unsqueeze(0)
            return meta.new_tensor([last.objective]), gradient

        def stepped(step: int, norms: Tensor) -> None:
            assert last is not None
            report(step, last, float(norms[0]))

        found = minimise_lbfgs(evaluate, init.unsqueeze(0), self.tolerance, self.warmup, callback=stepped)
        return found.point[0], found.iterations


class _Astray(Exception):
    """The fit does not stay near its start; so many products were used to see it."""

    def __init__(self, products: int) -> None:
        super().__init__(products)
        self.products = products


@dataclass(frozen=True)
class _NearNewton(Newton):
    """factor [P, P]: of the Hessian near which the fits are, by Cholesky."""

    factor: Tensor = field(default_factory=lambda: torch.empty(0))

    stays_near: ClassVar[bool] = True

    def fit(self, problem: BilevelProblem, *args: Any, **kwargs: Any) -> Fit:
        started = time.perf_counter()
        try:
            return super().fit(problem, *args, **kwargs)
        except _Astray as astray:
            plain = Newton(self.tolerance, self.warmup, self.max_steps, self.max_products)
            fit = plain.fit(problem, *args, **kwargs)
            products = astray.products + fit.products
            return replace(fit, seconds=time.perf_counter() - started, products=products)

    def _precondition(self, residual: Tensor) -> Tensor:
        return torch.cholesky_solve(residual.unsqueeze(1), self.factor).squeeze(1)


def _steihaug(
    point: Point, radius: float, tolerance: float, limit: int, precondition: Callable[[Tensor], Tensor]
) -> tuple[Tensor, float, int, bool]:
    """Minimise the quadratic model within `radius`.

    Returns the step, the predicted decrease, the products used, and whether the step ends inside.
    """
    operator = point.hessian()
    gradient = point.gradient
    step, residual = torch.zeros_like(gradient), -gradient
    scaled = precondition(residual)
    direction = scaled.clone()
    curved = torch.zeros_like(gradient)  # H @ step
    squared = residual @ scaled
    used, inside = 0, True
    while used < limit and float(residual.norm()) > tolerance:
        product = operator.matmat(direction.unsqueeze(1)).squeeze(1)
        used += 1
        curvature = direction @ product
        alpha = squared / curvature
        if curvature <= 0 or float((step + alpha * direction).norm()) >= radius:
            tau = _to_edge(step, direction, radius)
            step, curved, inside = step + tau * direction, curved + tau * product, False
            break
        step, curved = step + alpha * direction, curved + alpha * product
        residual = residual - alpha * product
        scaled = precondition(residual)
        new = residual @ scaled
        direction = scaled + (new / squared) * direction
        squared = new
    return step, -float(gradient @ step + 0.5 * step @ curved), used, inside


def _to_edge(step: Tensor, direction: Tensor, radius: float) -> float:
    """τ ≥ 0 with ‖step + τ direction‖ = radius."""
    a, b = float(direction @ direction), float(step @ direction)
    c = float(step @ step) - radius**2
    return (-b + max(b * b - a * c, 0.0) ** 0.5) / a

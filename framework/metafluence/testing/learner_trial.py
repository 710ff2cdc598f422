"""One learner on one small problem, and the oracles that its checks hold it against."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from hypothesis import assume
from torch import Tensor

from metafluence import BilevelProblem, Jacobian, Level, Point, TaskSet, Weights
from metafluence.testing.problems import random_meta


class Trial:
    """One learner on one small problem, at random meta-parameters."""

    def __init__(self, problem: BilevelProblem, seed: int) -> None:
        self.problem = problem
        self.learner = problem.learner
        self.generator = torch.Generator().manual_seed(seed)
        self.meta = random_meta(problem, seed)

    @property
    def direct(self) -> Jacobian:
        """What is differentiated where θ is not."""
        return "identity" if self.learner.shares_space else "held"

    def random(self, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=self.generator, dtype=torch.float64)

    def uneven(self) -> Weights:
        """Weights of which no two are equal, and none is zero."""
        ones = Weights.ones(self.problem.tasks)
        parts = (ones.task, ones.support, ones.query)
        return Weights(*(0.5 + torch.rand(w.shape, generator=self.generator, dtype=w.dtype) for w in parts))

    def pick(self, level: Level) -> int:
        count = getattr(Weights.ones(self.problem.tasks), level).numel()
        return int(torch.randint(count, (), generator=self.generator))

    def over(self, tasks: TaskSet) -> BilevelProblem:
        """The same objective over other tasks."""
        return replace(self.problem, tasks=tasks)


def near(found: Tensor, wanted: Tensor, tolerance: float, what: str, scale: float = 0.0) -> None:
    """‖found − wanted‖ ≤ tolerance · (scale + ‖wanted‖)."""
    found, wanted = found.detach(), wanted.detach()
    gap, bound = float((found - wanted).norm()), tolerance * (scale + float(wanted.norm())) + 1e-14
    assert gap <= bound, f"{what}: {gap:.1e} apart, allowed {bound:.1e}"


def by_differences(function: Callable[[Tensor], Tensor], at: Tensor, direction: Tensor, step: float) -> Tensor:
    """Fourth-order central difference of `function` along `direction`."""

    def f(t: float) -> Tensor:
        return function(at + t * step * direction).detach()

    return (8 * (f(1) - f(-1)) - (f(2) - f(-2))) / (12 * step)


def derivative(
    found: Tensor,
    function: Callable[[Tensor], Tensor],
    at: Tensor,
    direction: Tensor,
    step: float,
    tolerance: float,
    what: str,
    scale: float = 0.0,
) -> None:
    """`found` is the derivative; examples where differences do not settle (a kink, as Adam's at 0) are not counted."""
    wanted = by_differences(function, at, direction, step)
    try:
        near(found, wanted, tolerance, what, scale)
    except AssertionError:
        finer = by_differences(function, at, direction, step / 2)
        assume(float((finer - wanted).norm()) <= 0.1 * tolerance * (scale + float(wanted.norm())))
        raise


def dense(point: Point) -> Tensor:
    matrix = point.hessian().dense()
    return (matrix + matrix.T) / 2


def stationary(problem: BilevelProblem, start: Tensor, weights: Weights) -> Tensor:
    """λ* near `start`, by Newton; examples in which that fails are not counted."""
    meta = start
    for _ in range(8):
        point = problem.at(meta, weights)
        if float(point.gradient.norm()) < 1e-11:
            return meta
        meta = meta - torch.linalg.solve(dense(point), point.gradient)
    assume(False)
    return meta

"""One learner on one small problem, and the oracles that its checks hold it against."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from hypothesis import assume
from torch import Tensor

from metafluence import BilevelProblem, Jacobian, Level, Point, TaskSet, Weights
from metafluence.testing.differences import STEP, UnsettledError, assert_derivative, central_difference
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

        def drawn(part: Tensor) -> Tensor:
            return 0.5 + torch.rand(part.shape, generator=self.generator, dtype=part.dtype)

        return Weights(drawn(ones.task), drawn(ones.support), drawn(ones.query))

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


def derivative(
    found: Tensor,
    function: Callable[[Tensor], Tensor],
    at: Tensor,
    direction: Tensor,
    what: str,
    scale: float = 0.0,
    step: float = STEP,
    noise: float | Callable[[], float] = 0.0,
) -> None:
    """Assert that `found` is the derivative; examples where differences do not settle (Adam's kink at 0) do not count.

    See `central_difference` for the arguments.
    """
    difference = central_difference(function, at, direction, step, noise)
    try:
        assert_derivative(found, difference, what, scale)
    except UnsettledError:
        assume(False)


def dense(point: Point) -> Tensor:
    """The total Hessian [P, P], made symmetric to the last bit."""
    matrix = point.hessian().dense()
    return (matrix + matrix.T) / 2


def stationary(problem: BilevelProblem, start: Tensor, weights: Weights) -> tuple[Tensor, float]:
    """λ* near `start` and ‖∇F‖ there, by Newton; examples in which that fails are not counted."""
    meta = start
    for _ in range(8):
        point = problem.at(meta, weights)
        left = float(point.gradient.norm())
        if left < 1e-11:
            return meta, left
        meta = meta - torch.linalg.solve(dense(point), point.gradient)
    assume(False)
    return meta, left

"""The gradient of a loop's step under settings of the learner, and the setting that gives another gradient."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from metafluence.bilevel import BilevelProblem
from metafluence.errors import MetafluenceError
from metafluence.tasks import Weights
from metafluence.training.run import batch_gradient

ROUNDING = 0.4
"""The power of the precision that is the largest difference taken for rounding: 2e-3 in float32, 5e-7 in float64."""
DECADES = 2
"""How far from a setting another one is looked for, in powers of ten."""
ROUND = (1, 1.5, 2, 2.5, 3, 4, 5, 6, 8)
"""First digits of settings that people choose; these are tried first."""
ITERATIONS = 8


def loop_gradient(problem: BilevelProblem, meta: Tensor) -> Tensor:
    """The mean over the problem's tasks of their total gradients at `meta` [P]."""
    tasks = problem.tasks
    return batch_gradient(problem, Weights.ones(tasks), torch.arange(len(tasks)), meta).data


def distance(ours: Tensor, theirs: Tensor) -> float:
    """‖ours − theirs‖ over ‖theirs‖."""
    return float((ours - theirs).norm()) / max(float(theirs.norm()), torch.finfo(theirs.dtype).tiny)


def rounding(values: Tensor) -> float:
    """The largest share of a gradient that is taken for rounding."""
    return torch.finfo(values.dtype).eps ** ROUNDING


def factor_of(ours: Tensor, theirs: Tensor, fits: float) -> float | None:
    """What `ours` times is `theirs`, if anything."""
    squared = float(ours @ ours)
    factor = float(ours @ theirs) / squared if squared else 0.0
    return factor if factor and distance(factor * ours, theirs) <= fits else None


def with_setting(problem: BilevelProblem, name: str, value: Any) -> BilevelProblem:
    """The same tasks under the learner with another setting."""
    learner = replace(problem.learner, **{name: value})  # type: ignore[type-var]
    return BilevelProblem(learner, problem.tasks, 0.0, problem.inner_solver, problem.memory_gib)


def fitted_setting(
    problem: BilevelProblem, name: str, value: float, scale: float, meta: Tensor, theirs: Tensor
) -> float | None:
    """The value of a positive setting under which `scale` times the gradient is `theirs` [P] to rounding, if any.

    The best of round numbers around `value`, then Gauss-Newton steps in its logarithm.
    """

    def gap(log: float) -> Tensor:
        return scale * loop_gradient(with_setting(problem, name, math.exp(log)), meta) - theirs

    def small(missing: Tensor) -> bool:
        return float(missing.norm()) <= rounding(theirs) * float(theirs.norm())

    h = torch.finfo(theirs.dtype).eps ** (1 / 3)
    try:
        middle = math.floor(math.log10(value))
        decades = range(middle - DECADES, middle + DECADES + 1)
        grid = [float(f"{digits}e{decade}") for decade in decades for digits in ROUND]
        gaps: dict[float, Tensor] = {}
        for at in sorted(grid, key=lambda number: abs(math.log(number / value))):
            gaps[at] = gap(math.log(at))
            if small(gaps[at]):
                return at
        best = min(gaps, key=lambda at: float(gaps[at].norm()))
        log, here = math.log(best), gaps[best]
        for _ in range(ITERATIONS):
            slope = (gap(log + h) - gap(log - h)) / (2 * h)
            step = -float(slope @ here) / max(float(slope @ slope), torch.finfo(slope.dtype).tiny)
            log += max(-0.5, min(0.5, step))
            here = gap(log)
            if small(here):
                short = (float(f"{math.exp(log):.{digits}g}") for digits in range(1, 8))
                return next((number for number in short if small(gap(math.log(number)))), math.exp(log))
    except (MetafluenceError, RuntimeError, ValueError, OverflowError):
        pass
    return None

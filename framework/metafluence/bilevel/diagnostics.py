"""Whether the assumptions of influence functions hold at a fit, in numbers and in words."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from metafluence.bilevel.point import Point
from metafluence.linalg import Extremes, extreme_eigenvalues

STATIONARY = 1e-6
"""‖∇F‖ relative to the largest task's gradient, above which λ* is called not stationary."""
INNER_STATIONARY = 1e-6
CONDITION = 1e8


@dataclass(frozen=True)
class Diagnostics:
    """gradient_norm: ‖∇F‖ at λ*. task_gradient: the largest ‖r_i‖, its scale. inner_stationarity: largest ‖∂_θ L_I‖.

    inner_residual: the largest relative residual of the solves with inner Hessians (NaN if graphs were not kept).
    Both are NaN for learners that unroll, whose derivatives assume no inner optimum. exact: gradients are those of the
    loss. extremes: Ritz values of δI + H_Total. warnings: a sentence for each assumption that fails.
    """

    gradient_norm: float
    task_gradient: float
    inner_stationarity: float
    inner_converged: int
    inner_residual: float
    tasks: int
    extremes: Extremes
    warnings: tuple[str, ...]
    unrolled: bool = False
    exact: bool = True

    @property
    def adaptation(self) -> str:
        """How far tasks have adapted, in words."""
        if self.unrolled:
            return "does not apply: derivatives go through the adaptation itself, wherever it ends"
        return (
            f"‖∂_θ L_I‖ {self.inner_stationarity:.1e} at worst, {self.inner_converged} of {self.tasks} tasks converged"
        )

    @property
    def adapted(self) -> bool:
        """Implicit derivatives hold: all tasks are at the optimum of their inner losses, or nothing assumes it."""
        return self.unrolled or (self.inner_stationarity <= INNER_STATIONARY and self.inner_converged == self.tasks)


def diagnose(point: Point, generator: torch.Generator) -> Diagnostics:
    """Measure a fit. Costs one pass of task gradients and up to a hundred Hessian products."""
    gradient = float(point.gradient.norm())
    scale = float(point.task_gradients().norm(dim=0).max())
    learner, tasks = point.problem.learner, len(point.problem.tasks)
    extremes = extreme_eigenvalues(point.hessian(), generator).cpu()
    inner, residual, converged = float("nan"), float("nan"), tasks
    if not learner.unrolls:
        inner, residual = float(point.adaptation.gradient_norm.max()), point.inner_residual()
        converged = int(point.adaptation.converged.sum())
    parts = (gradient, scale, inner, converged, residual, tasks, extremes)
    found = Diagnostics(*parts, (), learner.unrolls, learner.exact)
    return replace(found, warnings=tuple(_warnings(found, type(learner).__name__)))


def _warnings(d: Diagnostics, learner: str) -> list[str]:
    warnings = []
    if d.gradient_norm > STATIONARY * max(d.task_gradient, 1e-300):
        warnings.append(
            f"λ* is not stationary: ‖∇F‖ is {d.gradient_norm:.1e} where the largest task gradient is "
            f"{d.task_gradient:.1e}. Influence assumes a minimum; train longer, or use the trainer newton."
        )
    if not d.exact:
        warnings.append(
            f"{learner}'s gradients are first-order, not those of the loss: λ* is a fixed point of its training and no "
            "minimum, and influence at it is an approximation. Set first_order: false for the true ones."
        )
    if not d.adapted:
        warnings.append(
            f"Adaptation has not converged on {d.tasks - d.inner_converged} of {d.tasks} tasks (largest inner gradient "
            f"{d.inner_stationarity:.1e}). Implicit derivatives assume that it has; give the learner more iterations "
            "or a stronger penalty."
        )
    smallest, largest = d.extremes.smallest, d.extremes.largest
    if smallest <= 0:
        warnings.append(
            f"δI + H_Total is not positive definite (smallest Ritz value {smallest:.1e}), so λ* is no minimum "
            "and predicted changes can point the wrong way. Raise l2, train longer, or add damping."
        )
    elif smallest <= d.extremes.smallest_error:
        warnings.append(
            f"δI + H_Total was not seen to be positive definite: its smallest Ritz value, {smallest:.1e}, is within "
            f"its error of {float(d.extremes.smallest_error):.1e}. Raise l2, or add damping."
        )
    elif largest > CONDITION * smallest:
        warnings.append(
            f"δI + H_Total is ill-conditioned ({largest / smallest:.0e}); small errors of a solve grow by that factor. "
            "Raise l2 or add damping."
        )
    return warnings

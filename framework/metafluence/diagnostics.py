"""Whether the assumptions of influence functions hold at a fit, in numbers and in words."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from metafluence.lanczos import Extremes, extreme_eigenvalues
from metafluence.problem import Point

STATIONARY = 1e-6
"""‖∇F‖ relative to the largest task's gradient, above which λ* is called not stationary."""
INNER_STATIONARY = 1e-6
CONDITION = 1e8


@dataclass(frozen=True)
class Diagnostics:
    """gradient_norm: ‖∇F‖ at λ*. task_gradient: the largest ‖r_i‖, its scale. inner_stationarity: largest ‖∂_θ L_I‖.

    inner_residual: the largest relative residual of the solves with inner Hessians (NaN if graphs were not kept).
    extremes: Ritz values of δI + H_Total. warnings: a sentence for each assumption that fails.
    """

    gradient_norm: float
    task_gradient: float
    inner_stationarity: float
    inner_converged: int
    inner_residual: float
    tasks: int
    extremes: Extremes
    warnings: tuple[str, ...]


def diagnose(point: Point, generator: torch.Generator) -> Diagnostics:
    """Measure a fit. Costs one pass of task gradients and up to a hundred Hessian products."""
    gradient = float(point.gradient.norm())
    scale = float(point.task_gradients().norm(dim=0).max())
    inner = float(point.adaptation.gradient_norm.max())
    converged = int(point.adaptation.converged.sum())
    tasks = len(point.problem.tasks)
    extremes = extreme_eigenvalues(point.hessian(), generator)
    warnings = []
    if gradient > STATIONARY * max(scale, 1e-300):
        warnings.append(
            f"λ* is not stationary: ‖∇F‖ is {gradient:.1e} where the largest task gradient is {scale:.1e}. Influence "
            "assumes a minimum; train longer, or use the trainer newton."
        )
    if inner > INNER_STATIONARY or converged < tasks:
        warnings.append(
            f"Adaptation has not converged on {tasks - converged} of {tasks} tasks (largest inner gradient "
            f"{inner:.1e}). Implicit derivatives assume that it has; give the learner more iterations or a stronger "
            "penalty."
        )
    if extremes.smallest <= 0:
        warnings.append(
            f"δI + H_Total is not positive definite (smallest Ritz value {extremes.smallest:.1e}), so λ* is no minimum "
            "and predicted changes can point the wrong way. Raise l2, train longer, or add damping."
        )
    elif extremes.largest > CONDITION * extremes.smallest:
        warnings.append(
            f"δI + H_Total is ill-conditioned ({extremes.largest / extremes.smallest:.0e}); small errors of a solve "
            "grow by that factor. Raise l2 or add damping."
        )
    return Diagnostics(gradient, scale, inner, converged, point.inner_residual(), tasks, extremes, tuple(warnings))

"""Smooth unconstrained minimisation of a stack of independent problems, all at once.

Each problem has its own step length, stopping test and history; a stopped problem keeps its point. The same L-BFGS
adapts N tasks and fits one vector of meta-parameters.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

ARMIJO = 1e-4
HALVINGS = 30
POLISHES = 5

Value = Callable[[Tensor], Tensor]
"""Points [N, Q] to values [N]."""
Gradient = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Points [N, Q] to values [N] and gradients [N, Q]."""
Newton = Callable[[Tensor], tuple[Tensor, Tensor, Tensor]]
"""Points [N, Q] to values [N], gradients [N, Q] and Hessians [N, Q, Q]."""


@dataclass(frozen=True)
class Minimum:
    """point [N, Q], value [N], gradient_norm [N] (Euclidean), iterations, converged [N] bool."""

    point: Tensor
    value: Tensor
    gradient_norm: Tensor
    iterations: int
    converged: Tensor


def minimise_newton(
    evaluate: Newton, value: Value, start: Tensor, tolerance: float, max_iterations: int = 100
) -> Minimum:
    """Newton's method with backtracking. A Hessian that is not positive definite gets the absolute values of its
    eigenvalues.
    """
    point = start
    stalled = torch.zeros(len(start), dtype=torch.bool, device=start.device)
    iterations = 0
    while True:
        f, g, hessian = evaluate(point)
        norm = torch.linalg.vector_norm(g, dim=-1)
        active = (norm > tolerance) & ~stalled
        if iterations >= max_iterations or not bool(active.any()):
            return Minimum(point, f, norm, iterations, norm <= tolerance)
        iterations += 1
        step = -_positive_solve(hessian, g)
        moved, ok = _backtrack(value, point, f, g, step, active)
        point, stuck = _polish(lambda x: evaluate(x)[1], point, moved, step, norm, active & ~ok)
        stalled |= stuck


def minimise_lbfgs(
    evaluate: Gradient,
    start: Tensor,
    tolerance: float,
    max_iterations: int = 500,
    history: int = 10,
    callback: Callable[[int, Tensor], None] | None = None,
) -> Minimum:
    """L-BFGS with a backtracking line search (Nocedal and Wright, algorithm 7.5); `history=0` is steepest descent.

    `callback` receives the iteration and the gradient norms [N] after each step.
    """
    evaluate = _cached(evaluate)
    point = start
    f, g = evaluate(point)
    pairs: deque[tuple[Tensor, Tensor, Tensor]] = deque(maxlen=history)
    stalled = torch.zeros(len(start), dtype=torch.bool, device=start.device)
    scale = 1 / torch.linalg.vector_norm(g, dim=-1).clamp_min(1.0)
    iterations = 0
    while True:
        norm = torch.linalg.vector_norm(g, dim=-1)
        if callback is not None and iterations:
            callback(iterations, norm)
        active = (norm > tolerance) & ~stalled
        if iterations >= max_iterations or not bool(active.any()):
            return Minimum(point, f, norm, iterations, norm <= tolerance)
        iterations += 1
        step = -_two_loops(g, pairs, scale)
        uphill = (step * g).sum(-1) >= 0
        step = torch.where(uphill.unsqueeze(-1), -scale.unsqueeze(-1) * g, step)
        moved, ok = _backtrack(lambda x: evaluate(x)[0], point, f, g, step, active)
        moved, stuck = _polish(lambda x: evaluate(x)[1], point, moved, step, norm, active & ~ok)
        stalled |= stuck
        f_new, g_new = evaluate(moved)
        change, bend = moved - point, g_new - g
        inner = (change * bend).sum(-1)
        good = inner > 1e-12 * torch.linalg.vector_norm(change, dim=-1) * torch.linalg.vector_norm(bend, dim=-1)
        # A pair without positive curvature is ignored (rho = 0) for that problem.
        rho = torch.where(good, 1 / torch.where(good, inner, torch.ones_like(inner)), torch.zeros_like(inner))
        pairs.append((change, bend, rho))
        scale = torch.where(good, inner / (bend * bend).sum(-1).clamp_min(1e-300), scale)
        if not history:
            # Steepest descent: remember twice the accepted step, so that it can grow again.
            scale = torch.where(ok & active, _ratio(change, g) * 2, scale)
        point, f, g = moved, f_new, g_new


def _cached(evaluate: Gradient) -> Gradient:
    """Cache the last evaluation: the point accepted by the line search is the one evaluated last."""
    last: list[tuple[Tensor, tuple[Tensor, Tensor]]] = []

    def cached(point: Tensor) -> tuple[Tensor, Tensor]:
        if not last or not torch.equal(last[0][0], point):
            last[:] = [(point, evaluate(point))]
        return last[0][1]

    return cached


def _two_loops(g: Tensor, pairs: deque[tuple[Tensor, Tensor, Tensor]], scale: Tensor) -> Tensor:
    direction, coefficients = g, []
    for change, bend, rho in reversed(pairs):
        alpha = rho * (change * direction).sum(-1)
        direction = direction - alpha.unsqueeze(-1) * bend
        coefficients.append(alpha)
    direction = scale.unsqueeze(-1) * direction
    for (change, bend, rho), alpha in zip(pairs, reversed(coefficients), strict=True):
        beta = rho * (bend * direction).sum(-1)
        direction = direction + (alpha - beta).unsqueeze(-1) * change
    return direction


def _backtrack(
    value: Value, point: Tensor, f: Tensor, g: Tensor, step: Tensor, active: Tensor
) -> tuple[Tensor, Tensor]:
    """Halve each problem's step until it decreases enough. Returns the new points and which problems succeeded."""
    slope = (g * step).sum(-1)
    length = torch.ones_like(f)
    slack = 4 * torch.finfo(f.dtype).eps * f.abs()
    ok = torch.zeros_like(active)
    for _ in range(HALVINGS):
        # Stop halving where the expected decrease is below rounding: shorter steps cannot be judged either.
        active = active & (ok | (-length * slope > slack))
        if bool((ok | ~active).all()):
            break
        trial = value(point + torch.where(active, length, 0.0).unsqueeze(-1) * step)
        ok |= active & (trial <= f + ARMIJO * length * slope)  # written so that NaN fails
        length = torch.where(ok, length, length / 2)
    return point + torch.where(ok, length, 0.0).unsqueeze(-1) * step, ok


def _polish(
    gradient: Value, point: Tensor, moved: Tensor, step: Tensor, norm: Tensor, failed: Tensor
) -> tuple[Tensor, Tensor]:
    """Near the minimum the decrease of the value is below rounding: accept a step if it lowers the gradient norm.

    Returns the points, and which problems found no such step.
    """
    for _ in range(POLISHES):
        if not bool(failed.any()):
            break
        tried = torch.where(failed.unsqueeze(-1), point + step, moved)
        lower = failed & (torch.linalg.vector_norm(gradient(tried), dim=-1) < norm)
        moved, failed, step = torch.where(lower.unsqueeze(-1), tried, moved), failed & ~lower, step / 2
    return moved, failed


def _ratio(change: Tensor, g: Tensor) -> Tensor:
    return torch.linalg.vector_norm(change, dim=-1) / torch.linalg.vector_norm(g, dim=-1).clamp_min(1e-300)


def _positive_solve(hessian: Tensor, g: Tensor) -> Tensor:
    factor, info = torch.linalg.cholesky_ex(hessian)
    step = torch.cholesky_solve(g.unsqueeze(-1), factor).squeeze(-1)
    bad = info != 0
    if bool(bad.any()):
        values, vectors = torch.linalg.eigh(hessian[bad])
        floor = 1e-6 * values.abs().amax(dim=-1, keepdim=True).clamp_min(1e-12)
        values = values.abs().maximum(floor)
        step = step.clone()
        step[bad] = (vectors @ ((vectors.mT @ g[bad].unsqueeze(-1)) / values.unsqueeze(-1))).squeeze(-1)
    return step

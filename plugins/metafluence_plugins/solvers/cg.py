"""Conjugate gradients on all columns at once (Hestenes and Stiefel, 1952)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from metafluence import (
    SYMMETRIC,
    Applied,
    Count,
    KrylovSpace,
    LinearOperator,
    Preconditioner,
    Solver,
    Status,
    Tolerance,
)
from metafluence_plugins.solvers.krylov import KrylovState


@dataclass(frozen=True)
class CG(Solver):
    """Conjugate gradients; each column stops by its own residual, and a stopped column costs no more products.

    rtol: relative residual at which a column is done (100 times the precision, if that is more). max_iterations: None
    for ten times the operator's size.
    preconditioner: `nystrom` for any operator, `ek-fac` for a network's inner Hessian. Raises SolverError for one that
    is seen not to be positive definite, which is where rᵀ M⁻¹ r is not above zero for a residual r.
    """

    rtol: Tolerance = 1e-8
    max_iterations: Count | None = None
    preconditioner: Preconditioner | None = None

    requires: ClassVar[frozenset[str]] = frozenset({SYMMETRIC})

    def prepare(self, operator: LinearOperator, damping: float, generator: torch.Generator) -> KrylovState:
        return KrylovState.of(operator, damping, self.preconditioner, generator)

    def apply(self, state: KrylovState, rhs: Tensor, generator: torch.Generator) -> Applied:
        limit = self.max_iterations if self.max_iterations is not None else 10 * state.operator.size
        value = torch.zeros_like(rhs)
        status = torch.full((*rhs.shape[:-2], rhs.shape[-1]), int(Status.MAX_ITERATIONS), device=rhs.device)
        target = self.tolerance(rhs.dtype) * torch.linalg.vector_norm(rhs, dim=-2)
        residual = rhs.clone()
        status[torch.linalg.vector_norm(residual, dim=-2) <= target] = int(Status.CONVERGED)
        direction = state.positive(residual)
        # rᵀ M⁻¹ r, which is ‖r‖² without a preconditioner.
        squared = (residual * direction).sum(dim=-2)
        lowest = torch.full_like(target, torch.inf)
        iterations = 0
        while iterations < limit:
            running = status == int(Status.MAX_ITERATIONS)
            # Columns in which some member of the batch is still running; the others are left out of the product.
            columns = running.reshape(-1, running.shape[-1]).any(dim=0).nonzero().squeeze(-1)
            if columns.numel() == 0:
                break
            iterations += 1
            going = running[..., columns]
            part = direction[..., columns]
            product = state.operator.matmat(part)
            curvature = (part * product).sum(dim=-2)
            lowest[..., columns] = torch.where(going, curvature / (part * part).sum(dim=-2), lowest[..., columns])
            bad = going & ~curvature.isfinite()
            negative = going & (curvature <= 0)
            status[..., columns] = torch.where(bad, int(Status.BREAKDOWN), status[..., columns])
            status[..., columns] = torch.where(negative, int(Status.NEGATIVE_CURVATURE), status[..., columns])
            going = going & ~bad & ~negative
            old = squared[..., columns]
            step = torch.where(going, old / torch.where(going, curvature, torch.ones_like(curvature)), 0.0)
            value[..., columns] += step.unsqueeze(-2) * part
            rest = residual[..., columns] - step.unsqueeze(-2) * torch.where(going.unsqueeze(-2), product, 0.0)
            residual[..., columns] = rest
            done = going & (torch.linalg.vector_norm(rest, dim=-2) <= target[..., columns])
            status[..., columns] = torch.where(done, int(Status.CONVERGED), status[..., columns])
            nearer = state.positive(rest)
            new = (rest * nearer).sum(dim=-2)
            ratio = torch.where(going, new / torch.where(old > 0, old, torch.ones_like(old)), 0.0)
            direction[..., columns] = nearer + ratio.unsqueeze(-2) * part
            squared[..., columns] = new
        return Applied(value, status, iterations, _note(status, lowest))

    def tolerance(self, dtype: torch.dtype) -> float:
        return max(self.rtol, 100 * torch.finfo(dtype).eps)

    def sweep(
        self, operator: LinearOperator, dampings: Sequence[float], rhs: Tensor, generator: torch.Generator
    ) -> list[Applied]:
        """One Krylov space of each column serves all dampings, as A and A + damping I share it (no preconditioner)."""
        space = KrylovSpace(operator, rhs)
        norm = space.start_norm
        limit = min(self.max_iterations or operator.size, operator.size)
        shifts = torch.tensor(dampings, dtype=rhs.dtype, device=rhs.device)
        while True:
            space.grow()
            values, vectors = torch.linalg.eigh(space.tridiagonal())
            # y solves (T + damping I) y = ‖b‖ e₁, [dampings, *batch, k, m].
            shifted = values + shifts.reshape(-1, *[1] * values.dim())
            weights = torch.where(norm.unsqueeze(-1) > 0, vectors[..., 0, :] * norm.unsqueeze(-1) / shifted, 0.0)
            last = (weights * vectors[..., -1, :]).sum(dim=-1)
            done = (space.outside * last).abs() <= self.tolerance(rhs.dtype) * norm
            if space.size >= limit or bool(done.all()):
                break
        found = []
        for reached, weight, value in zip(done, weights, shifted, strict=True):
            inside = (vectors @ weight.unsqueeze(-1)).squeeze(-1)
            status = torch.where(reached, int(Status.CONVERGED), int(Status.MAX_ITERATIONS))
            lowest = value[..., 0]
            status = torch.where((lowest <= 0) & (norm > 0), int(Status.NEGATIVE_CURVATURE), status)
            solved = (space.basis @ inside.unsqueeze(-1)).squeeze(-1).mT
            found.append(Applied(solved, status, space.size, _note(status, lowest)))
        return found


def _note(status: Tensor, lowest: Tensor) -> str:
    if bool((status == int(Status.NEGATIVE_CURVATURE)).any()):
        return f"Curvature met: {float(lowest.min()):.2e}."
    return ""

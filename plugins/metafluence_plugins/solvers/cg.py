"""Conjugate gradients on all columns at once (Hestenes and Stiefel, 1952)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from metafluence import SYMMETRIC, Applied, LinearOperator, ShiftedOperator, Solver, Status


@dataclass(frozen=True)
class CG(Solver):
    """Conjugate gradients; each column stops by its own residual, and a stopped column costs no more products.

    rtol: relative residual at which a column is done. max_iterations: None for ten times the operator's size.
    """

    rtol: float = 1e-8
    max_iterations: int | None = None

    requires: ClassVar[frozenset[str]] = frozenset({SYMMETRIC})

    def prepare(self, operator: LinearOperator, damping: float) -> LinearOperator:
        return ShiftedOperator(operator, damping) if damping else operator

    def apply(self, state: LinearOperator, rhs: Tensor, generator: torch.Generator | None = None) -> Applied:
        limit = self.max_iterations if self.max_iterations is not None else 10 * state.size
        value = torch.zeros_like(rhs)
        status = torch.full((*rhs.shape[:-2], rhs.shape[-1]), int(Status.MAX_ITERATIONS), device=rhs.device)
        scale = torch.linalg.vector_norm(rhs, dim=-2)
        target = self.rtol * scale
        residual = rhs.clone()
        direction = rhs.clone()
        squared = (residual * residual).sum(dim=-2)
        status[squared.sqrt() <= target] = int(Status.CONVERGED)
        lowest = torch.full_like(scale, torch.inf)
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
            product = state.matmat(part)
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
            residual[..., columns] -= step.unsqueeze(-2) * torch.where(going.unsqueeze(-2), product, 0.0)
            new = (residual[..., columns] ** 2).sum(dim=-2)
            done = going & (new.sqrt() <= target[..., columns])
            status[..., columns] = torch.where(done, int(Status.CONVERGED), status[..., columns])
            ratio = torch.where(going, new / torch.where(old > 0, old, torch.ones_like(old)), 0.0)
            direction[..., columns] = residual[..., columns] + ratio.unsqueeze(-2) * part
            squared[..., columns] = new
        note = ""
        if bool((status == int(Status.NEGATIVE_CURVATURE)).any()):
            note = f"Curvature met: {float(lowest.min()):.2e}."
        return Applied(value, status, iterations, note)

    def tolerance(self, dtype: torch.dtype) -> float:
        return max(self.rtol, 100 * torch.finfo(dtype).eps)

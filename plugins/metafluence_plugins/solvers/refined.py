"""Iterative refinement: solves in single precision, residuals in double (Wilkinson 1963; Carson and Higham 2018)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from metafluence import (
    SYMMETRIC,
    Applied,
    Count,
    LinearOperator,
    ShiftedOperator,
    Solver,
    Status,
    Tolerance,
    check_requirements,
)
from metafluence_plugins.solvers.cg import CG

# A step that leaves more than this of the residual is not going to arrive: single precision cannot resolve the rest.
STALLED = 0.5
STOPPED = -1
"""A column whose steps the other solver ended early, while others go on."""


@dataclass(frozen=True, eq=False)
class RefinedState:
    """A + damping I in its own precision, and what the other solver prepared of A in single precision."""

    operator: LinearOperator
    rough: Any


@dataclass(frozen=True)
class Refined(Solver):
    """x <- x + S(b − A x), S another solver in float32; b − A x is measured in the operator's own precision.

    So the answer is as good as a float64 solve's, at products of float32, which cost about half or less; and where
    float32 cannot resolve A (condition number past about 1e6) the residual stays and is reported. solver: S; a few
    digits are enough. rtol: relative residual at which a column is done (100 times the precision, if that is more).
    max_steps: refinements at most.
    """

    solver: Solver = CG(rtol=1e-4)
    rtol: Tolerance = 1e-8
    max_steps: Count = 30

    requires: ClassVar[frozenset[str]] = frozenset({SYMMETRIC})

    def prepare(self, operator: LinearOperator, damping: float, generator: torch.Generator) -> RefinedState:
        """Raises SolverError where the operator cannot be had in float32, or S cannot be used with it."""
        rough = operator.cast(torch.float32)
        check_requirements(self.solver, rough)
        damped = ShiftedOperator(operator, damping) if damping else operator
        return RefinedState(damped, self.solver.prepare(rough, damping, generator))

    def apply(self, state: RefinedState, rhs: Tensor, generator: torch.Generator) -> Applied:
        value, residual = torch.zeros_like(rhs), rhs.clone()
        size = torch.linalg.vector_norm(rhs, dim=-2)
        target = self.tolerance(rhs.dtype) * size
        status = torch.full(size.shape, int(Status.MAX_ITERATIONS), device=rhs.device)
        status[size <= target] = int(Status.CONVERGED)
        iterations, note = 0, ""
        for _ in range(self.max_steps):
            running = status == int(Status.MAX_ITERATIONS)
            columns = running.reshape(-1, running.shape[-1]).any(dim=0).nonzero().squeeze(-1)
            if columns.numel() == 0:
                break
            going, before = running[..., columns], size[..., columns]
            scale = torch.where(going & (before > 0), before, 1.0).unsqueeze(-2)
            asked = torch.where(going.unsqueeze(-2), residual[..., columns] / scale, 0.0)
            step = self.solver.apply(state.rough, asked.float(), generator)
            iterations += step.iterations
            tried = value[..., columns] + scale * step.value.to(rhs.dtype)
            rest = rhs[..., columns] - state.operator.matmat(tried)
            after = torch.linalg.vector_norm(rest, dim=-2)
            better = going & (after < before)
            value[..., columns] = torch.where(better.unsqueeze(-2), tried, value[..., columns])
            residual[..., columns] = torch.where(better.unsqueeze(-2), rest, residual[..., columns])
            size[..., columns] = torch.where(better, after, before)
            ended = status[..., columns]
            # A stalled step that the other solver calls converged is single precision's fault, else that solver's.
            fault = torch.where(step.status == int(Status.CONVERGED), int(Status.INACCURATE), STOPPED)
            ended = torch.where(going & ~(after <= STALLED * before), fault, ended)
            refused = (step.status == int(Status.NEGATIVE_CURVATURE)) | (step.status == int(Status.BREAKDOWN))
            ended = torch.where(going & refused, step.status, ended)
            ended = torch.where(going & (after <= target[..., columns]), int(Status.CONVERGED), ended)
            status[..., columns], note = ended, step.note or note
        if bool((status == STOPPED).any()):
            note = f"{type(self.solver).__name__} ended each step too early to be refined: let it go further."
        elif bool((status == int(Status.MAX_ITERATIONS)).any()):
            note = f"Refined took its {self.max_steps} steps: raise max_steps."
        status[status == STOPPED] = int(Status.MAX_ITERATIONS)
        return Applied(value, status, iterations, note)

    def tolerance(self, dtype: torch.dtype) -> float:
        return max(self.rtol, 100 * torch.finfo(dtype).eps)

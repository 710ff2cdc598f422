"""What preconditioned iterations prepare: the damped operator, and the preconditioner's state for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from metafluence import (
    Extremes,
    LinearOperator,
    Preconditioner,
    ShiftedOperator,
    SolverError,
    check_requirements,
    extreme_eigenvalues,
)


@dataclass(frozen=True, eq=False)
class KrylovState:
    """A + damping I, and M⁻¹ if there is a preconditioner."""

    operator: LinearOperator
    preconditioner: Preconditioner | None
    preconditioned: Any

    @classmethod
    def of(
        cls, operator: LinearOperator, damping: float, preconditioner: Preconditioner | None, generator: torch.Generator
    ) -> KrylovState:
        """Raises SolverError where the operator lacks what the preconditioner requires."""
        state = None
        if preconditioner is not None:
            check_requirements(preconditioner, operator)
            state = preconditioner.prepare(operator, damping, generator)
        return cls(ShiftedOperator(operator, damping) if damping else operator, preconditioner, state)

    def precondition(self, columns: Tensor) -> Tensor:
        """M⁻¹ times columns [*batch, n, k]; a copy of them without a preconditioner."""
        if self.preconditioner is None:
            return columns.clone()
        return self.preconditioner.precondition(self.preconditioned, columns)

    def positive(self, columns: Tensor) -> Tensor:
        """M⁻¹ columns; raises SolverError if it is seen not to be positive definite: cᵀ M⁻¹ c > 0 for a column c."""
        found = self.precondition(columns)
        if self.preconditioner is None:
            return found
        tiny = torch.finfo(columns.dtype).tiny
        cosine = (normalize(columns, dim=-2, eps=tiny) * normalize(found, dim=-2, eps=tiny)).sum(dim=-2)
        # Where M⁻¹ is badly conditioned, rounding alone can bring a product a little below zero, but not to zero.
        below = cosine < -(torch.finfo(columns.dtype).eps ** 0.5)
        if bool((below | ((cosine == 0) & (columns != 0).any(dim=-2))).any()):
            raise SolverError(
                f"The preconditioner {type(self.preconditioner).__name__} is not positive definite on this operator. "
                "Add damping, take another preconditioner, or leave it out."
            )
        return found

    def extremes(self, operator: LinearOperator, generator: torch.Generator, steps: int) -> Extremes:
        """Extremal eigenvalues of M⁻¹ times `operator` (A + damping I, or a part of it), to about a hundredth."""
        inverse = None if self.preconditioner is None else self.positive
        return extreme_eigenvalues(operator, generator, steps, 1e-2, inverse)

    def refuse_indefinite(self, name: str, extremes: Extremes) -> None:
        """Raises SolverError if an eigenvalue is zero or less, as solver `name` would diverge."""
        low = float(extremes.smallest.min())
        if low <= 0 and self.preconditioner is None:
            raise SolverError(
                f"{name} diverges on an operator with eigenvalue {low:.2e}: no step makes it converge. Add damping "
                f"above {-low:.2g}, fit closer to a minimum, or use minres."
            )
        if low <= 0:
            raise SolverError(
                f"{name} diverges on an operator that is not positive definite (its smallest preconditioned eigenvalue "
                f"is {low:.2e}): no step makes it converge. Add damping, fit closer to a minimum, or use minres."
            )

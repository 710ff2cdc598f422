"""What cg and minres prepare: the damped operator, and the preconditioner's state for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from metafluence import LinearOperator, Preconditioner, ShiftedOperator, check_requirements


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

"""The inverse of shift I + V Vᵀ in the space of V's few columns (Woodbury 1950)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from metafluence import LOW_RANK, SYMMETRIC, Applied, LinearOperator, LowRank, Solver, SolverError, Status


@dataclass(frozen=True, eq=False)
class WoodburyState:
    """V = U diag(singular) Wᵀ: vectors U [*batch, n, r], singular [*batch, r]; shift includes the damping."""

    vectors: Tensor
    singular: Tensor
    shift: float


@dataclass(frozen=True)
class Woodbury(Solver):
    """(shift I + V Vᵀ)⁻¹ b = (b − U Uᵀ b)/shift + U diag(1/(σ² + shift)) Uᵀ b, from V's thin singular values.

    For the curvature fisher, where V holds one gradient per task: P N² work and no product. Through singular values
    rather than VᵀV, whose squared condition number would lose half the digits.
    """

    requires: ClassVar[frozenset[str]] = frozenset({SYMMETRIC, LOW_RANK})

    def prepare(self, operator: LinearOperator, damping: float, generator: torch.Generator) -> WoodburyState:
        parts: LowRank = operator.structure
        vectors, singular, _ = torch.linalg.svd(parts.factor, full_matrices=False)
        return WoodburyState(vectors, singular, parts.shift + damping)

    def apply(self, state: WoodburyState, rhs: Tensor, generator: torch.Generator) -> Applied:
        if not state.shift > 0:
            raise SolverError("woodbury needs a positive shift: V Vᵀ alone has no inverse. Add damping, or l2 > 0.")
        inside = state.vectors.mT @ rhs
        outside = rhs - state.vectors @ inside
        # Once more, for what rounding leaves inside would be divided by the shift alone.
        outside = outside - state.vectors @ (state.vectors.mT @ outside)
        value = outside / state.shift + state.vectors @ (inside / (state.singular.square() + state.shift).unsqueeze(-1))
        status = torch.full((*rhs.shape[:-2], rhs.shape[-1]), int(Status.CONVERGED), device=rhs.device)
        return Applied(value, status)

    def tolerance(self, dtype: torch.dtype) -> float:
        return float(torch.finfo(dtype).eps ** 0.5)

    def sweep(
        self, operator: LinearOperator, dampings: Sequence[float], rhs: Tensor, generator: torch.Generator
    ) -> list[Applied]:
        """One decomposition serves all dampings."""
        state = self.prepare(operator, 0.0, generator)
        return [self.apply(replace(state, shift=state.shift + d), rhs, generator) for d in dampings]

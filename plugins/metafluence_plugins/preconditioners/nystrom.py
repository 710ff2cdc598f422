"""Randomised Nyström preconditioning (Frangella, Tropp and Udell 2023)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from metafluence import SYMMETRIC, Count, InputError, LinearOperator, Preconditioner, SolverError


@dataclass(frozen=True, eq=False)
class NystromState:
    """A ≈ U diag(values) Uᵀ: vectors U [*batch, n, r], values [*batch, r] descending; and the damping."""

    vectors: Tensor
    values: Tensor
    damping: float


@dataclass(frozen=True)
class Nystrom(Preconditioner):
    """M⁻¹ = (λ_r + damping) U (Λ + damping)⁻¹ Uᵀ + (I − U Uᵀ), from `rank` products with random columns.

    It takes the operator's largest `rank` eigenvalues down to the size of the next one. For operators that are
    positive semi-definite but for rounding.
    """

    rank: Count = 20

    requires: ClassVar[frozenset[str]] = frozenset({SYMMETRIC})

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise InputError(f"nystrom needs rank >= 1; it is {self.rank}. Try 20.")

    def prepare(self, operator: LinearOperator, damping: float, generator: torch.Generator) -> NystromState:
        rank = min(self.rank, operator.size)
        shape = (*operator.batch_shape, operator.size, rank)
        drawn = torch.randn(shape, generator=generator, device=generator.device, dtype=operator.dtype)
        drawn = drawn.to(operator.device)
        test = torch.linalg.qr(drawn).Q
        sketch = operator.matmat(test)
        # A small shift makes the core's factorisation stable, and is taken off again.
        nudge = torch.finfo(operator.dtype).eps * torch.linalg.matrix_norm(sketch)[..., None, None] * operator.size**0.5
        sketch = sketch + nudge * test
        core = test.mT @ sketch
        factor, info = torch.linalg.cholesky_ex((core + core.mT) / 2)
        if bool((info > 0).any()):
            raise SolverError(
                "nystrom needs a positive semi-definite operator, and this one has negative curvature. Add damping, or "
                "use minres without a preconditioner."
            )
        root = torch.linalg.solve_triangular(factor, sketch.mT, upper=False).mT
        vectors, singular, _ = torch.linalg.svd(root, full_matrices=False)
        values = (singular.square() - nudge.squeeze(-1)).clamp(min=0)
        return NystromState(vectors, values, damping)

    def precondition(self, state: NystromState, columns: Tensor) -> Tensor:
        inside = state.vectors.mT @ columns
        damped = state.values + state.damping
        # An operator of lower rank than asked for leaves zeros; they are treated like the rest of the space.
        floor = damped.amax(dim=-1, keepdim=True) * torch.finfo(damped.dtype).eps * 10
        damped = torch.maximum(damped, floor)
        scaled = (damped[..., -1:] / damped).unsqueeze(-1) * inside
        return columns + state.vectors @ (scaled - inside)

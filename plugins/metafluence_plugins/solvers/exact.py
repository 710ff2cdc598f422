"""Dense symmetric factorisation: the reference that the other solvers are held against."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from metafluence import SYMMETRIC, Applied, LinearOperator, ShiftedOperator, Solver, SolverError, Status


@dataclass(frozen=True)
class ExactState:
    cholesky: Tensor | None
    eigenvalues: Tensor | None
    eigenvectors: Tensor | None


@dataclass(frozen=True)
class Exact(Solver):
    """Cholesky where the operator is positive definite, else its eigendecomposition.

    memory_gib: the most memory that the factorisation may take; a larger one is refused.
    """

    memory_gib: float = 4.0

    requires: ClassVar[frozenset[str]] = frozenset({SYMMETRIC})

    def prepare(self, operator: LinearOperator, damping: float) -> ExactState:
        batch = 1
        for length in operator.batch_shape:
            batch *= length
        # The matrix, its symmetrised copy and the factor.
        needed = 3 * batch * operator.size**2 * torch.empty((), dtype=operator.dtype).element_size() / 2**30
        if needed > self.memory_gib:
            raise SolverError(
                f"exact would need {needed:.1f} GiB for {batch} matrices of size {operator.size} (limit "
                f"{self.memory_gib} GiB). Use cg, or raise memory_gib."
            )
        dense = (ShiftedOperator(operator, damping) if damping else operator).dense()
        matrix = (dense + dense.mT) / 2
        if not bool(matrix.isfinite().all()):
            raise SolverError("exact met NaN or infinite entries in the operator. Use float64, or look at the inputs.")
        factor, info = torch.linalg.cholesky_ex(matrix)
        if bool((info == 0).all()):
            return ExactState(factor, None, None)
        values, vectors = torch.linalg.eigh(matrix)
        return ExactState(None, values, vectors)

    def apply(self, state: ExactState, rhs: Tensor, generator: torch.Generator | None = None) -> Applied:
        status = torch.full((*rhs.shape[:-2], rhs.shape[-1]), int(Status.CONVERGED), device=rhs.device)
        if state.cholesky is not None:
            return Applied(torch.cholesky_solve(rhs, state.cholesky), status)
        assert state.eigenvalues is not None
        assert state.eigenvectors is not None
        values, vectors = state.eigenvalues, state.eigenvectors
        note = f"The operator is indefinite: smallest eigenvalue {float(values.min()):.2e}." if values.min() < 0 else ""
        return Applied(vectors @ ((vectors.mT @ rhs) / values.unsqueeze(-1)), status, note=note)

    def tolerance(self, dtype: torch.dtype) -> float:
        return float(torch.finfo(dtype).eps ** 0.5)

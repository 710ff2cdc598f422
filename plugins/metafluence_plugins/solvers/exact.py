"""Dense symmetric factorisation: the reference that the other solvers are held against."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from metafluence import SYMMETRIC, Applied, LinearOperator, Positive, ShiftedOperator, Solver, SolverError, Status


@dataclass(frozen=True)
class Spectrum:
    """Eigenvalues [*batch, n], ascending, and eigenvectors [*batch, n, n]."""

    values: Tensor
    vectors: Tensor


@dataclass(frozen=True)
class Exact(Solver):
    """Cholesky where the operator is positive definite, else its eigendecomposition.

    memory_gib: the most memory that the factorisation may take; a larger one is refused.
    """

    memory_gib: Positive = 4.0

    requires: ClassVar[frozenset[str]] = frozenset({SYMMETRIC})

    def prepare(self, operator: LinearOperator, damping: float, generator: torch.Generator) -> Tensor | Spectrum:
        matrix = self._matrix(ShiftedOperator(operator, damping) if damping else operator)
        factor, info = torch.linalg.cholesky_ex(matrix)
        if bool((info == 0).all()):
            return factor
        del factor
        return Spectrum(*torch.linalg.eigh(matrix))

    def apply(self, state: Tensor | Spectrum, rhs: Tensor, generator: torch.Generator) -> Applied:
        if isinstance(state, Spectrum):
            return _divide(state, 0.0, rhs)
        return Applied(torch.cholesky_solve(rhs, state), _converged(rhs))

    def tolerance(self, dtype: torch.dtype) -> float:
        return float(torch.finfo(dtype).eps ** 0.5)

    def sweep(
        self, operator: LinearOperator, dampings: Sequence[float], rhs: Tensor, generator: torch.Generator
    ) -> list[Applied]:
        """One eigendecomposition serves all dampings."""
        spectrum = Spectrum(*torch.linalg.eigh(self._matrix(operator)))
        return [_divide(spectrum, damping, rhs) for damping in dampings]

    @staticmethod
    def gib(operator: LinearOperator) -> float:
        """GiB that `prepare` takes at its peak, besides what the operator's products take: twice all matrices (with
        their eigenvectors), and a workspace of two.
        """
        count = math.prod(operator.batch_shape)
        # The workspace of an eigendecomposition is one member's; the rest is held for all.
        entries = (2 * count + 2) * operator.size**2
        return entries * torch.empty((), dtype=operator.dtype).element_size() / 2**30

    def _matrix(self, operator: LinearOperator) -> Tensor:
        needed = self.gib(operator)
        if needed > self.memory_gib:
            raise SolverError(
                f"exact would need {needed:.1f} GiB for {math.prod(operator.batch_shape)} matrices of size "
                f"{operator.size} (limit {self.memory_gib} GiB). Use cg, or raise memory_gib."
            )
        dense = operator.dense()
        matrix = (dense + dense.mT).div_(2)
        if not bool(matrix.isfinite().all()):
            raise SolverError("exact met NaN or infinite entries in the operator. Use float64, or look at the inputs.")
        return matrix


def _divide(spectrum: Spectrum, damping: float, rhs: Tensor) -> Applied:
    values, vectors = spectrum.values + damping, spectrum.vectors
    note = f"The operator is indefinite: smallest eigenvalue {float(values.min()):.2e}." if values.min() < 0 else ""
    return Applied(vectors @ ((vectors.mT @ rhs) / values.unsqueeze(-1)), _converged(rhs), note=note)


def _converged(rhs: Tensor) -> Tensor:
    return torch.full((*rhs.shape[:-2], rhs.shape[-1]), int(Status.CONVERGED), device=rhs.device)

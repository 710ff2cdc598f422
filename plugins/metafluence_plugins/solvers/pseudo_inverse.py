"""The pseudo-inverse: directions of almost no curvature are left out instead of blown up."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from metafluence import SYMMETRIC, Applied, LinearOperator, Solver, Status, Tolerance


@dataclass(frozen=True, eq=False)
class Spectrum:
    """vectors [*batch, n, n] and the inverses of their eigenvalues [*batch, n], zero for those left out."""

    vectors: Tensor
    inverses: Tensor


@dataclass(frozen=True)
class PseudoInverse(Solver):
    """(A + damping I)⁺ by a dense eigendecomposition, as TLXML (arXiv 2501.14271) inverts its Hessian.

    cutoff: eigenvalues below this share of the largest one are treated as zero. Where none is, this is the inverse.
    """

    cutoff: Tolerance = 1e-8

    requires: ClassVar[frozenset[str]] = frozenset({SYMMETRIC})
    approximate: ClassVar[bool] = True

    def prepare(self, operator: LinearOperator, damping: float, generator: torch.Generator) -> Spectrum:
        matrix = operator.dense()
        values, vectors = torch.linalg.eigh((matrix + matrix.mT) / 2)
        values = values + damping
        keep = values.abs() > self.cutoff * values.abs().amax(dim=-1, keepdim=True)
        return Spectrum(vectors, torch.where(keep, 1 / values, 0))

    def apply(self, state: Spectrum, rhs: Tensor, generator: torch.Generator) -> Applied:
        value = state.vectors @ (state.inverses.unsqueeze(-1) * (state.vectors.mT @ rhs))
        whole = (state.inverses != 0).all(dim=-1, keepdim=True) | (rhs == 0).all(dim=-2)
        status = torch.where(whole.expand(rhs.shape[:-2] + rhs.shape[-1:]), Status.CONVERGED, Status.APPROXIMATE)
        return Applied(value, status, 0)

    def tolerance(self, dtype: torch.dtype) -> float:
        return float(torch.finfo(dtype).eps ** 0.5)

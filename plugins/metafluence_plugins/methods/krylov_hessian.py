"""A Hessian as one Krylov space knows it: what `leave_out: rescaled` inverts in place of the Hessian."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from metafluence import SYMMETRIC, KrylovSpace, LinearOperator, Preconditioner


class KrylovHessian(LinearOperator):
    """A on the Krylov space of a column `start` [P, 1] after `steps` products, and `rest` I outside of it.

    U diag(values) Uᵀ + rest (I − U Uᵀ), U [P, m] the Ritz vectors. Its products make none with A.
    """

    tags = frozenset({SYMMETRIC})

    def __init__(self, operator: LinearOperator, start: Tensor, steps: int, rest: float) -> None:
        self.size, self.dtype, self.device = operator.size, operator.dtype, operator.device
        space = KrylovSpace(operator, start)
        while space.size < min(steps, self.size) and bool(space.outside.any()):
            space.grow()
        values, inner = torch.linalg.eigh(space.tridiagonal()[0])
        self.values, self.vectors, self.rest, self.products = values, space.basis[0] @ inner, rest, space.size

    def matmat(self, columns: Tensor) -> Tensor:
        return self.of(columns, self.values, self.rest)

    def of(self, columns: Tensor, values: Tensor, rest: float) -> Tensor:
        """The same vectors with other values, times columns [*batch, P, k]."""
        return rest * columns + self.vectors @ ((values - rest).unsqueeze(-1) * (self.vectors.mT @ columns))


@dataclass(frozen=True)
class KrylovInverse(Preconditioner):
    """The inverse of a KrylovHessian + damping I, with the sizes of its values."""

    known: Any

    def prepare(self, operator: LinearOperator, damping: float, generator: torch.Generator) -> tuple[Tensor, float]:
        values, rest = self.known.values + damping, self.known.rest + damping
        return 1 / values.abs().clamp(min=1e-3 * rest), 1 / rest

    def precondition(self, state: tuple[Tensor, float], columns: Tensor) -> Tensor:
        return self.known.of(columns, *state)

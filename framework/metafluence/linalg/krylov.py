"""Krylov spaces of symmetric operators, and the extremal eigenvalues found in them (Lanczos 1950)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from metafluence.linalg.operators import LinearOperator


class KrylovSpace:
    """Orthonormal bases of the Krylov spaces of `start` [*batch, n, k], one per column, fully reorthogonalised.

    inverse: M⁻¹ times columns [*batch, n, k], symmetric and positive definite. The spaces are then those of M⁻¹ A from
    M⁻¹ start. They are orthonormal in the inner product of M, in which M⁻¹ A is symmetric, and norms of what A gives
    are those of M⁻¹.

    After m products `basis` is [*batch, k, n, m] and `tridiagonal()` is A projected on it. `outside` [*batch, k] is the
    norm of the part of the last product that lies outside the basis; where it is zero the space is invariant (closed)
    and no longer changes while the others grow.
    """

    def __init__(
        self, operator: LinearOperator, start: Tensor, inverse: Callable[[Tensor], Tensor] | None = None
    ) -> None:
        self._operator, self._inverse = operator, inverse
        vector, self.start_norm = self._measured(start.mT)
        scale = torch.where(self.start_norm > 0, self.start_norm, 1.0).unsqueeze(-1)
        self._next, self._next_dual = vector / scale, start.mT / scale
        self._store = self._next.unsqueeze(-1)
        # M times the basis; without M it is the basis.
        self._dual_store = self._store if inverse is None else self._next_dual.unsqueeze(-1)
        self.size = 0
        self.diagonal: list[Tensor] = []
        self.off_diagonal: list[Tensor] = []
        self.outside = torch.ones_like(self.start_norm)

    @property
    def basis(self) -> Tensor:
        return self._store[..., : self.size]

    def grow(self) -> None:
        """Multiply once more for every column."""
        if self.size:
            self.off_diagonal.append(self.outside)
        if self._store.shape[-1] == self.size:  # double the storage: amortised linear copying
            self._store = torch.cat([self._store, torch.empty_like(self._store)], dim=-1)
            double = torch.cat([self._dual_store, torch.empty_like(self._dual_store)], dim=-1)
            self._dual_store = self._store if self._inverse is None else double
        vector = self._next
        self._store[..., self.size] = vector
        self._dual_store[..., self.size] = self._next_dual
        self.size += 1
        duals = self._dual_store[..., : self.size]
        product = self._operator.matmat(vector.mT.contiguous()).mT
        alpha = (vector * product).sum(dim=-1)
        for _ in range(2):  # once is not enough in floating point (Parlett 1980)
            product = product - (duals @ (self.basis.mT @ product.unsqueeze(-1))).squeeze(-1)
        vector, outside = self._measured(product)
        scale = torch.hypot(alpha, outside)
        if self.off_diagonal:
            scale = torch.hypot(scale, self.off_diagonal[-1])
        # In a closed space the rest of the product is rounding.
        open_ = (outside > 100 * torch.finfo(outside.dtype).eps * scale) & (self.outside > 0)
        # After closing, pad the tridiagonal matrix with its first value, decoupled: it lies within the spectrum.
        known = (self.outside > 0) | (torch.tensor(self.size) == 1)
        self.diagonal.append(torch.where(known, alpha, self.diagonal[0] if self.diagonal else alpha))
        self.outside = torch.where(open_, outside, 0.0)
        divisor = torch.where(open_, outside, torch.inf).unsqueeze(-1)
        self._next, self._next_dual = vector / divisor, product / divisor

    def _measured(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """M⁻¹ rows [*batch, k, n], and the norms of the rows in M⁻¹ [*batch, k]."""
        if self._inverse is None:
            return rows, torch.linalg.vector_norm(rows, dim=-1)
        vectors = self._inverse(rows.mT.contiguous()).mT
        return vectors, (vectors * rows).sum(dim=-1).clamp(min=0).sqrt()

    def tridiagonal(self) -> Tensor:
        """[*batch, k, m, m]."""
        matrix = torch.diag_embed(torch.stack(self.diagonal, dim=-1))
        if self.off_diagonal:
            off = torch.stack(self.off_diagonal, dim=-1)
            matrix = matrix + torch.diag_embed(off, 1) + torch.diag_embed(off, -1)
        return matrix


@dataclass(frozen=True)
class Extremes:
    """Smallest and largest Ritz values [*batch]; each is within its error of an eigenvalue.

    The smallest is never below the true smallest eigenvalue, nor the largest above the true largest.
    """

    smallest: Tensor
    smallest_error: Tensor
    largest: Tensor
    largest_error: Tensor
    products: int

    def cpu(self) -> Extremes:
        """The same on the processor."""
        low, high = (self.smallest.cpu(), self.smallest_error.cpu()), (self.largest.cpu(), self.largest_error.cpu())
        return Extremes(*low, *high, self.products)


def extreme_eigenvalues(
    operator: LinearOperator,
    generator: torch.Generator,
    steps: int = 100,
    rtol: float = 1e-3,
    inverse: Callable[[Tensor], Tensor] | None = None,
) -> Extremes:
    """Ritz values after at most `steps` products, or once both errors are below `rtol` times the values.

    inverse: M⁻¹ times columns, symmetric and positive definite; the values are then those of M⁻¹ A.
    """
    shape = (*operator.batch_shape, operator.size, 1)
    start = torch.randn(shape, generator=generator, device=generator.device, dtype=operator.dtype)
    space = KrylovSpace(operator, start.to(operator.device), inverse)
    limit = min(steps, operator.size)
    while True:
        space.grow()
        values, vectors = torch.linalg.eigh(space.tridiagonal().squeeze(-3))
        errors = space.outside * vectors[..., -1, :].abs()
        low, high = values[..., 0], values[..., -1]
        settled = (errors[..., 0] <= rtol * low.abs()) & (errors[..., -1] <= rtol * high.abs())
        closed = space.outside.squeeze(-1) == 0
        enough = bool((closed | (settled & (space.size > 1))).all())
        if space.size >= limit or enough:
            return Extremes(low, errors[..., 0], high, errors[..., -1], space.size)

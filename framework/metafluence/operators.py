"""Linear operators on columns: the only thing a solver ever sees.

Every operator may carry batch dimensions (one matrix per task, say): it maps [*batch, n, k] to [*batch, n, k].
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

SYMMETRIC = "symmetric"
PSD = "psd"


class LinearOperator(ABC):
    """A square linear map known by its products.

    size: n. batch_shape: leading dimensions, () for a single matrix. tags: what is known to hold, of
    {"symmetric", "psd"}.
    """

    size: int
    dtype: torch.dtype
    device: torch.device
    batch_shape: tuple[int, ...] = ()
    tags: frozenset[str] = frozenset({SYMMETRIC})

    @abstractmethod
    def matmat(self, columns: Tensor) -> Tensor:
        """The product with `columns` [*batch, n, k], of the same shape."""

    def dense(self) -> Tensor:
        """The matrix itself, [*batch, n, n], from n products."""
        identity = torch.eye(self.size, dtype=self.dtype, device=self.device)
        return self.matmat(identity.expand(*self.batch_shape, -1, -1))


@dataclass(frozen=True, eq=False)
class DenseOperator(LinearOperator):
    """A matrix [*batch, n, n] held in memory."""

    matrix: Tensor
    tags: frozenset[str] = frozenset({SYMMETRIC})

    def __post_init__(self) -> None:
        if self.matrix.dim() < 2 or self.matrix.shape[-1] != self.matrix.shape[-2]:
            raise ValueError(f"An operator is square; got shape {tuple(self.matrix.shape)}.")
        object.__setattr__(self, "size", self.matrix.shape[-1])
        object.__setattr__(self, "dtype", self.matrix.dtype)
        object.__setattr__(self, "device", self.matrix.device)
        object.__setattr__(self, "batch_shape", tuple(self.matrix.shape[:-2]))

    def matmat(self, columns: Tensor) -> Tensor:
        return self.matrix @ columns

    def dense(self) -> Tensor:
        return self.matrix


class ShiftedOperator(LinearOperator):
    """A + shift * I."""

    def __init__(self, operator: LinearOperator, shift: float) -> None:
        self.operator = operator
        self.shift = shift
        self.size, self.dtype, self.device = operator.size, operator.dtype, operator.device
        self.batch_shape = operator.batch_shape
        self.tags = operator.tags if shift >= 0 else operator.tags - {PSD}

    def matmat(self, columns: Tensor) -> Tensor:
        return self.operator.matmat(columns) + self.shift * columns

    def dense(self) -> Tensor:
        matrix = self.operator.dense().clone()
        matrix.diagonal(dim1=-2, dim2=-1).add_(self.shift)
        return matrix


class CountingOperator(LinearOperator):
    """Counts products: one per column. A column of a batch counts once, as all its members are multiplied together."""

    def __init__(self, operator: LinearOperator) -> None:
        self.operator = operator
        self.products = 0
        self.size, self.dtype, self.device = operator.size, operator.dtype, operator.device
        self.batch_shape, self.tags = operator.batch_shape, operator.tags

    def matmat(self, columns: Tensor) -> Tensor:
        self.products += columns.shape[-1]
        return self.operator.matmat(columns)

    def dense(self) -> Tensor:
        # A matrix held in memory costs nothing; any other is made of one product per column.
        if not isinstance(self.operator, DenseOperator):
            self.products += self.size
        return self.operator.dense()

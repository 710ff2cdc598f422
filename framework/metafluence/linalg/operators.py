"""Linear operators on columns: the only thing a solver ever sees.

Every operator may carry batch dimensions (one matrix per task, say): it maps [*batch, n, k] to [*batch, n, k].
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from metafluence.errors import SolverError

SYMMETRIC = "symmetric"
PSD = "psd"
SUM = "sum"
"""Made of many terms (tasks, instances), so that `split` can give it in parts."""
LAYERED = "layered"
"""The Hessian of a network's loss, whose layers are known: `structure` is a `LayerStack`."""
LOW_RANK = "low-rank"
"""shift I + V Vᵀ with few columns V: `structure` is a `LowRank`."""


class LinearOperator(ABC):
    """A square linear map known by its products. A subclass gives `size`, `dtype`, `device` and `matmat`.

    Attributes:
        size: n.
        dtype, device: of the numbers; columns to be multiplied are of this dtype and on this device.
        batch_shape: leading dimensions, () for a single matrix.
        tags: what is known to hold, of SYMMETRIC, PSD, SUM, LAYERED, LOW_RANK.
        structure: what the last two tags promise, for solvers that need more than products.

    Example:
        >>> import torch, metafluence as mf
        >>> class Diagonal(mf.LinearOperator):
        ...     tags = frozenset({mf.SYMMETRIC, mf.PSD})
        ...
        ...     def __init__(self, values):
        ...         self.values = values
        ...         self.size, self.dtype, self.device = len(values), values.dtype, values.device
        ...
        ...     def matmat(self, columns):
        ...         return self.values.unsqueeze(1) * columns
        >>> Diagonal(torch.tensor([1.0, 2.0])).dense()
        tensor([[1., 0.],
                [0., 2.]])
    """

    size: int
    dtype: torch.dtype
    device: torch.device
    batch_shape: tuple[int, ...] = ()
    tags: frozenset[str] = frozenset({SYMMETRIC})

    @property
    def structure(self) -> Any:
        return None

    @abstractmethod
    def matmat(self, columns: Tensor) -> Tensor:
        """The product with `columns` [*batch, n, k], of the same shape."""

    def split(self, count: int, generator: torch.Generator) -> list[LinearOperator]:
        """At most `count` operators whose mean is this one, each made of a random part of its terms.

        A product with one costs about 1/count of a product with this one. Raises SolverError without the tag "sum".
        """
        raise SolverError(f"{type(self).__name__} is not made of terms that could be sampled.")

    def cast(self, dtype: torch.dtype) -> LinearOperator:
        """The same operator made in another precision. Raises SolverError where it cannot be."""
        raise SolverError(
            f"{type(self).__name__} is known in {self.dtype} alone, so that no solver can work in another precision. "
            "Use cg or minres in place of refined."
        )

    def dense(self) -> Tensor:
        """The matrix itself, [*batch, n, n], from n products."""
        identity = torch.eye(self.size, dtype=self.dtype, device=self.device)
        return self.matmat(identity.expand(*self.batch_shape, -1, -1))


@dataclass(frozen=True, eq=False)
class DenseOperator(LinearOperator):
    """A matrix [*batch, n, n] held in memory. layers: the structure behind the tag "layered"."""

    matrix: Tensor
    tags: frozenset[str] = frozenset({SYMMETRIC})
    layers: Any = None

    def __post_init__(self) -> None:
        if self.matrix.dim() < 2 or self.matrix.shape[-1] != self.matrix.shape[-2]:
            raise ValueError(f"An operator is square; got shape {tuple(self.matrix.shape)}.")
        object.__setattr__(self, "size", self.matrix.shape[-1])
        object.__setattr__(self, "dtype", self.matrix.dtype)
        object.__setattr__(self, "device", self.matrix.device)
        object.__setattr__(self, "batch_shape", tuple(self.matrix.shape[:-2]))

    @property
    def structure(self) -> Any:
        return self.layers

    def matmat(self, columns: Tensor) -> Tensor:
        return self.matrix @ columns

    def cast(self, dtype: torch.dtype) -> DenseOperator:
        return DenseOperator(self.matrix.to(dtype), self.tags & frozenset({SYMMETRIC, PSD}))

    def dense(self) -> Tensor:
        return self.matrix


@dataclass(frozen=True, eq=False)
class LowRank:
    """shift I + V Vᵀ: factor V [*batch, n, r]."""

    factor: Tensor
    shift: float


class LowRankOperator(LinearOperator):
    """shift I + V Vᵀ for V [*batch, n, r], shift >= 0."""

    tags = frozenset({SYMMETRIC, PSD, LOW_RANK})

    def __init__(self, factor: Tensor, shift: float) -> None:
        self._parts = LowRank(factor, shift)
        self.size, self.dtype, self.device = factor.shape[-2], factor.dtype, factor.device
        self.batch_shape = tuple(factor.shape[:-2])

    @property
    def structure(self) -> LowRank:
        return self._parts

    def matmat(self, columns: Tensor) -> Tensor:
        factor = self._parts.factor
        return self._parts.shift * columns + factor @ (factor.mT @ columns)

    def cast(self, dtype: torch.dtype) -> LowRankOperator:
        return LowRankOperator(self._parts.factor.to(dtype), self._parts.shift)


def random_groups(total: int, count: int, generator: torch.Generator) -> list[Tensor]:
    """`total` items in min(count, total) random groups of almost equal size."""
    order = torch.randperm(total, generator=generator, device=generator.device)
    return list(order.cpu().tensor_split(min(count, total)))


class ShiftedOperator(LinearOperator):
    """A + shift * I, known by its products alone: what A's structure promises does not hold for it."""

    def __init__(self, operator: LinearOperator, shift: float) -> None:
        self.operator = operator
        self.shift = shift
        self.size, self.dtype, self.device = operator.size, operator.dtype, operator.device
        self.batch_shape = operator.batch_shape
        self.tags = operator.tags & (frozenset({SYMMETRIC, PSD}) if shift >= 0 else frozenset({SYMMETRIC}))

    def matmat(self, columns: Tensor) -> Tensor:
        return self.operator.matmat(columns) + self.shift * columns

    def cast(self, dtype: torch.dtype) -> ShiftedOperator:
        return ShiftedOperator(self.operator.cast(dtype), self.shift)

    def dense(self) -> Tensor:
        matrix = self.operator.dense().clone()
        matrix.diagonal(dim1=-2, dim2=-1).add_(self.shift)
        return matrix


class CountingOperator(LinearOperator):
    """Counts products: one per column. A column of a batch counts once, as all its members are multiplied together.

    A product with one of m parts counts 1/m.
    """

    def __init__(self, operator: LinearOperator, share: float = 1.0, total: list[float] | None = None) -> None:
        self.operator = operator
        self._share = share
        self._total = [0.0] if total is None else total
        self.size, self.dtype, self.device = operator.size, operator.dtype, operator.device
        self.batch_shape, self.tags = operator.batch_shape, operator.tags

    @property
    def products(self) -> float:
        return self._total[0]

    @property
    def structure(self) -> Any:
        return self.operator.structure

    def matmat(self, columns: Tensor) -> Tensor:
        self._total[0] += columns.shape[-1] * self._share
        return self.operator.matmat(columns)

    def split(self, count: int, generator: torch.Generator) -> list[LinearOperator]:
        parts = self.operator.split(count, generator)
        return [CountingOperator(part, self._share / len(parts), self._total) for part in parts]

    def cast(self, dtype: torch.dtype) -> CountingOperator:
        return CountingOperator(self.operator.cast(dtype), self._share, self._total)

    def dense(self) -> Tensor:
        # A matrix held in memory costs nothing; any other is made of one product per column.
        if not isinstance(self.operator, DenseOperator):
            self._total[0] += self.size * self._share
        return self.operator.dense()

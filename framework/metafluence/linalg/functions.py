"""Functions of symmetric operators applied to columns, f(A) V, by Lanczos (Saad 1992; Higham 2008, section 13.2)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from metafluence.linalg.krylov import KrylovSpace
from metafluence.linalg.operators import LinearOperator

Scalar = Callable[[Tensor], Tensor]
"""A function of eigenvalues, elementwise."""


class FunctionValues(NamedTuple):
    """values: f(A) V for each function f, [*batch, n, k] each. error: the largest relative change of a column's value
    by the last product, an estimate of the relative error. products: of every column.
    """

    values: tuple[Tensor, ...]
    error: float
    products: int


def apply_functions(
    operator: LinearOperator, columns: Tensor, functions: Sequence[Scalar], steps: int = 100, rtol: float = 1e-8
) -> FunctionValues:
    """f(A) V for several functions of one symmetric operator, all from the same products.

    In a Krylov space with basis Q and tridiagonal T, f(A) v is about ‖v‖ Q f(T) e₁. The space grows until no value
    changes by more than `rtol` of itself with another product, or by `steps` products.

    Args:
        operator: A, [n, n], symmetric; batches of operators too.
        columns: V [*batch, n, k].
        functions: f, of tensors of eigenvalues.
        steps: most products of a column.
        rtol: relative accuracy to stop at.

    Example:
        >>> import torch, metafluence as mf
        >>> four = mf.DenseOperator(torch.tensor([[4.0]]))
        >>> mf.apply_functions(four, torch.ones(1, 1), [torch.sqrt]).values[0]
        tensor([[2.]])
    """
    space = KrylovSpace(operator, columns)
    before: list[Tensor] | None = None
    while True:
        space.grow()
        values, vectors = torch.linalg.eigh(space.tridiagonal())  # [*batch, k, m], [*batch, k, m, m]
        first = vectors[..., 0, :]
        found = [(vectors @ (f(values) * first).unsqueeze(-1)).squeeze(-1) for f in functions]
        if before is None:
            changes = torch.stack([torch.ones_like(space.outside) for _ in found])
        else:
            changes = torch.stack([_change(new, old) for new, old in zip(found, before, strict=True)])
        error = float(torch.where(space.outside > 0, changes, 0.0).max()) if changes.numel() else 0.0
        if error <= rtol or space.size >= min(steps, operator.size):
            break
        before = found
    if space.size >= operator.size:
        error = 0.0
    scale = space.start_norm.unsqueeze(-1)
    applied = tuple((scale * (space.basis @ c.unsqueeze(-1)).squeeze(-1)).mT for c in found)
    return FunctionValues(applied, error, space.size)


def _change(new: Tensor, old: Tensor) -> Tensor:
    """‖new − old‖ / ‖new‖ of coefficients in bases of m and m - 1 vectors."""
    difference = new - torch.nn.functional.pad(old, (0, 1))
    norm = torch.linalg.vector_norm(new, dim=-1)
    return torch.linalg.vector_norm(difference, dim=-1) / torch.where(norm > 0, norm, 1.0)

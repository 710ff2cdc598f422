"""Eigenvalue-corrected Kronecker factors (George et al. 2018; for influence, Grosse et al. 2023)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from metafluence import (
    LAYERED,
    SYMMETRIC,
    Applied,
    Count,
    Layer,
    LayeredLoss,
    LayerStack,
    LinearOperator,
    Preconditioner,
    Solver,
    SolverError,
    Status,
)

# Per-instance gradients of a layer are made for as many instances at a time as fit in this.
INSTANCE_BYTES = 2**28

GRAM_WIDTH = 256
"""Narrower matrices are multiplied at once: smaller blocks cost more than half of the work saves."""


@dataclass(frozen=True, eq=False)
class Factors:
    """One layer of every task: the Fisher of its matrix W [o, i] is Σ_ab eigenvalues_ab (l_a ⊗ r_b)(l_a ⊗ r_b)ᵀ.

    index [o, i]: where W lies in the flat vector. l: columns of output_vectors [n, o, p], eigenvectors of the factor
    Σ_j w_j Σ_places g gᵀ with values output_values [n, p]; r: columns of input_vectors [n, i, q], of
    Σ_j w_j Σ_places a aᵀ / places. Few instances leave few directions: q is at most the number of inputs seen, and the
    Fisher is zero outside. eigenvalues [n, p, q]: the Fisher's own diagonal in this basis.
    """

    index: Tensor
    input_values: Tensor
    input_vectors: Tensor
    output_values: Tensor
    output_vectors: Tensor
    eigenvalues: Tensor


@dataclass(frozen=True, eq=False)
class EKFACState:
    """All layers, the diagonal [n, q] of the parameters outside them with their places, and shift + damping."""

    layers: tuple[Factors, ...]
    others: Tensor | None
    diagonal: Tensor
    shift: float


@dataclass(frozen=True)
class EKFAC(Solver, Preconditioner):
    """The Hessian's Gauss-Newton part by layer, as Q Λ Qᵀ; the learner's own shift and the damping are added exactly.

    Q: eigenvectors of the Kronecker factors, Λ: the Fisher's diagonal in that basis. The inverse is exact for one
    linear layer and one instance, an approximation else: judge it by its residual.
    fisher: `exact` (one backward pass per output), `sampled` (targets drawn from the model, `samples` passes) or
    `empirical` (the true targets, one pass). unsupported: what becomes of trained parameters outside of Linear and
    Conv2d layers: `refuse` names them in an error, `diagonal` takes the Fisher's diagonal for them.
    """

    fisher: Literal["exact", "sampled", "empirical"] = "exact"
    samples: Count = 1
    unsupported: Literal["refuse", "diagonal"] = "refuse"

    requires: ClassVar[frozenset[str]] = frozenset({SYMMETRIC, LAYERED})
    approximate: ClassVar[bool] = True

    def prepare(self, operator: LinearOperator, damping: float, generator: torch.Generator) -> EKFACState:
        stack: LayerStack = operator.structure
        chunks = [self._decompose(loss, generator) for loss in stack.chunks()]
        layers = tuple(_join(factors) for factors in zip(*(c[0] for c in chunks), strict=True))
        return EKFACState(layers, chunks[0][1], torch.cat([c[2] for c in chunks]), chunks[0][3] + damping)

    def _decompose(
        self, loss: LayeredLoss, generator: torch.Generator
    ) -> tuple[list[Factors], Tensor | None, Tensor, float]:
        """A few tasks: the factors of every layer, the other parameters' places and diagonal, and the shift."""
        others = None
        if loss.others:
            if self.unsupported == "refuse":
                names = ", ".join(name for name, _ in loss.others)
                raise SolverError(
                    f"ek-fac works on Linear and Conv2d layers (groups = 1, zero padding, used once); {names} are "
                    "parameters of others. Set unsupported: diagonal to take the Fisher's diagonal there, or use cg."
                )
            others = torch.cat([where for _, where in loss.others])
        pulled, diagonal = [], torch.zeros_like(loss.weights[:, :1])
        for cotangents in self._fisher_vectors(loss, generator):
            pulled.append(loss.pull(cotangents))
            if others is not None:
                diagonal = diagonal + (loss.pull_others(cotangents).square() * loss.weights.unsqueeze(-1)).sum(dim=1)
        layers = [
            _factors(layer, [gradients[i] for gradients in pulled], loss.weights) for i, layer in enumerate(loss.layers)
        ]
        return layers, others, diagonal, loss.shift

    def apply(self, state: EKFACState, rhs: Tensor, generator: torch.Generator) -> Applied:
        status = torch.full((*rhs.shape[:-2], rhs.shape[-1]), int(Status.APPROXIMATE), device=rhs.device)
        status[(rhs == 0).all(dim=-2)] = int(Status.CONVERGED)
        return Applied(self.precondition(state, rhs), status)

    def precondition(self, state: EKFACState, columns: Tensor) -> Tensor:
        if not state.shift > 0:
            raise SolverError(
                "ek-fac has no inverse here: its factors are of low rank and neither the learner nor the damping adds "
                "to them. Add damping."
            )
        return self._in_basis(state, columns, lambda values: 1 / values)

    def product(self, state: EKFACState, columns: Tensor) -> Tensor:
        """The approximation itself, Q Λ Qᵀ + shift I, applied to columns."""
        return self._in_basis(state, columns, lambda values: values)

    def _in_basis(self, state: EKFACState, columns: Tensor, function: Callable[[Any], Any]) -> Tensor:
        """A function of the approximation, by its eigenvalues."""
        if columns.dim() == 2:  # one operator, not a stack of them
            return self._in_basis(state, columns.unsqueeze(0), function)[0]
        rows = columns.mT  # [n, k, Q]
        value = rows * function(state.shift)  # what no eigenvector reaches
        for factors in state.layers:
            rotated = _rotate(rows[..., factors.index], factors.output_vectors, factors.input_vectors)
            change = (function(factors.eigenvalues + state.shift) - function(state.shift)).unsqueeze(1) * rotated
            value[..., factors.index] += _rotate(change, factors.output_vectors.mT, factors.input_vectors.mT)
        if state.others is not None:
            value[..., state.others] = rows[..., state.others] * function(state.diagonal.unsqueeze(1) + state.shift)
        return value.mT

    def tolerance(self, dtype: torch.dtype) -> float:
        return float(torch.finfo(dtype).eps ** 0.5)

    def sweep(
        self, operator: LinearOperator, dampings: Sequence[float], rhs: Tensor, generator: torch.Generator
    ) -> list[Applied]:
        """One decomposition serves all dampings."""
        state = self.prepare(operator, 0.0, generator)
        return [self.apply(replace(state, shift=state.shift + d), rhs, generator) for d in dampings]

    def _fisher_vectors(self, loss: LayeredLoss, generator: torch.Generator) -> Iterator[Tensor]:
        """Cotangents s [n, m, C] with Σ s sᵀ the Fisher at the outputs, one after another."""
        if self.fisher == "exact":
            yield from loss.loss.roots(loss.outputs)
        elif self.fisher == "empirical":
            yield loss.loss.observed(loss.outputs, loss.targets)
        else:
            for _ in range(self.samples):
                yield loss.loss.sampled(loss.outputs, generator) / self.samples**0.5


def _factors(layer: Layer, gradients: list[Tensor], weights: Tensor) -> Factors:
    """Eigenvectors of both factors, and the Fisher's diagonal in their basis."""
    scale = weights[:, :, None, None]
    inputs = (layer.inputs * (scale / layer.inputs.shape[2]).sqrt()).flatten(1, 2)
    input_values, input_vectors = _principal(inputs)
    covariance = sum((scale * g).flatten(1, 2).mT @ g.flatten(1, 2) for g in gradients)
    assert isinstance(covariance, Tensor)
    output_values, output_vectors = torch.linalg.eigh(covariance)
    eigenvalues = _diagonal(layer.inputs, gradients, weights, output_vectors, input_vectors)
    return Factors(layer.index, input_values, input_vectors, output_values, output_vectors, eigenvalues)


def _diagonal(inputs: Tensor, gradients: list[Tensor], weights: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """The Fisher's own diagonal in the basis: Σ_j w_j (leftᵀ (Σ_places g aᵀ) right)², summed over `gradients`."""
    places, outputs = inputs.shape[2], left.shape[1]
    found = torch.zeros(len(left), left.shape[-1], right.shape[-1], dtype=left.dtype, device=left.device)
    # Either all places' inputs are rotated, once for all gradients, or every instance's gradient matrix.
    inputs_first = places <= outputs * len(gradients)
    a = _right(inputs, right) if inputs_first else inputs
    size = max(1, INSTANCE_BYTES // (len(left) * outputs * a.shape[-1] * a.element_size()))
    for g in gradients:
        if places == 1:  # the square of a product is the product of squares
            rotated = _right(g, left).squeeze(2)
            found += (rotated.square() * weights.unsqueeze(-1)).mT @ a.squeeze(2).square()
            continue
        for start in range(0, a.shape[1], size):
            some = slice(start, start + size)
            each = g[:, some].mT @ a[:, some]  # [n, instances, o, i]
            if not inputs_first:
                each = _right(each, right)
            each = _right(each.mT, left)
            found += (each.square() * weights[:, some, None, None]).sum(dim=1).mT
    return found


def _join(factors: tuple[Factors, ...]) -> Factors:
    """The factors of one layer, of consecutive chunks of tasks."""
    names = ("input_values", "input_vectors", "output_values", "output_vectors", "eigenvalues")
    return Factors(factors[0].index, *(torch.cat([getattr(f, name) for f in factors]) for name in names))


def _principal(x: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues and eigenvectors of xᵀx for x [n, m, i], without the zeros that m < i leaves."""
    if x.shape[1] >= x.shape[2]:
        return torch.linalg.eigh(_gram(x))
    q, r = torch.linalg.qr(x.mT)
    values, vectors = torch.linalg.eigh(r @ r.mT)
    return values, q @ vectors


def _gram(x: Tensor) -> Tensor:
    """xᵀx for x [n, m, i], of whose two equal corners one is made."""
    if x.shape[2] < GRAM_WIDTH:
        return x.mT @ x
    one, other = x.tensor_split(2, dim=2)
    corner = one.mT @ other
    return torch.cat([torch.cat([_gram(one), corner], dim=2), torch.cat([corner.mT, _gram(other)], dim=2)], dim=1)


def _right(x: Tensor, basis: Tensor) -> Tensor:
    """X @ basis for x [n, k, a, b], basis [n, b, c], without repeating the basis k times."""
    return (x.flatten(1, 2) @ basis).unflatten(1, x.shape[1:3])


def _rotate(x: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """leftᵀ x right for every one of k columns: x [n, k, o, i], left [n, o, p], right [n, i, q]."""
    return _right(_right(x, right).mT, left).mT

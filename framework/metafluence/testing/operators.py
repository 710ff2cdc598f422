"""Operators with known matrices, on which every solver is tried."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call, hessian, vmap

from metafluence import (
    LAYERED,
    PSD,
    SUM,
    SYMMETRIC,
    DenseOperator,
    FlatModule,
    LayerStack,
    LinearOperator,
    LowRankOperator,
    SoftmaxLoss,
    cross_entropy,
    layered_loss,
    random_groups,
)


@dataclass(frozen=True, eq=False)
class Case:
    """An operator, and its matrix [*batch, n, n]. factored: Kronecker factors are exact on it."""

    operator: LinearOperator
    matrix: Tensor
    factored: bool = False

    @property
    def definite(self) -> bool:
        return bool((torch.linalg.eigvalsh(self.matrix.double()) > 0).all())

    @property
    def condition(self) -> float:
        values = torch.linalg.eigvalsh(self.matrix.double()).abs()
        return float((values.amax(dim=-1) / values.amin(dim=-1)).max())


class SumOperator(DenseOperator):
    """The mean of terms [m, n, n], which can be split."""

    def __init__(self, terms: Tensor) -> None:
        super().__init__(terms.mean(dim=0), frozenset({SYMMETRIC, PSD, SUM}))
        object.__setattr__(self, "_terms", terms)

    def split(self, count: int, generator: torch.Generator) -> list[LinearOperator]:
        terms: Tensor = self.__dict__["_terms"]
        groups = random_groups(len(terms), count, generator)
        # Unequal groups: weighed so that the mean over groups is the mean over terms.
        return [DenseOperator(terms[g].sum(dim=0) * len(groups) / len(terms)) for g in groups]


def _spectrum(values: Tensor, generator: torch.Generator, dtype: torch.dtype) -> Tensor:
    """A random symmetric matrix with these eigenvalues."""
    n = len(values)
    basis = torch.linalg.qr(torch.randn(n, n, generator=generator, dtype=torch.float64)).Q
    matrix = basis @ torch.diag(values.double()) @ basis.T
    return ((matrix + matrix.T) / 2).to(dtype)


def _definite(values: Callable[[torch.dtype], Tensor]) -> Callable[[torch.Generator, torch.dtype], Case]:
    def make(generator: torch.Generator, dtype: torch.dtype) -> Case:
        matrix = _spectrum(values(dtype), generator, dtype)
        return Case(DenseOperator(matrix, frozenset({SYMMETRIC, PSD})), matrix)

    return make


def _diagonal(generator: torch.Generator, dtype: torch.dtype) -> Case:
    matrix = torch.diag(1 + 9 * torch.rand(9, generator=generator, dtype=torch.float64)).to(dtype)
    return Case(DenseOperator(matrix, frozenset({SYMMETRIC, PSD})), matrix)


def _indefinite(generator: torch.Generator, dtype: torch.dtype) -> Case:
    values = torch.cat([-0.5 - torch.rand(3, generator=generator), 0.5 + 4 * torch.rand(5, generator=generator)])
    matrix = _spectrum(values, generator, dtype)
    return Case(DenseOperator(matrix), matrix)


def _low_rank(generator: torch.Generator, dtype: torch.dtype) -> Case:
    operator = LowRankOperator(torch.randn(10, 3, generator=generator, dtype=torch.float64).to(dtype), 0.5)
    return Case(operator, operator.dense())


def _batch(generator: torch.Generator, dtype: torch.dtype) -> Case:
    spectra = (torch.linspace(1, 2, 6), torch.linspace(1, 20, 6), torch.full((6,), 3.0))
    matrix = torch.stack([_spectrum(values, generator, dtype) for values in spectra])
    return Case(DenseOperator(matrix, frozenset({SYMMETRIC, PSD})), matrix)


def _sum(generator: torch.Generator, dtype: torch.dtype) -> Case:
    roots = torch.randn(10, 5, 5, generator=generator, dtype=torch.float64)
    terms = (roots @ roots.mT / 5 + torch.eye(5, dtype=torch.float64)).to(dtype)
    operator = SumOperator(terms)
    return Case(operator, operator.matrix)


def _network(
    module: Callable[[], nn.Module], inputs: Callable[[torch.Generator], Tensor], weights: list[float]
) -> Callable[[torch.Generator, torch.dtype], Case]:
    """The Hessian of a softmax loss plus ‖θ‖²/4 on three tasks, the last of which predicts all classes alike."""

    def make(generator: torch.Generator, dtype: torch.dtype) -> Case:
        network = FlatModule(module(), dtype)
        flat = torch.randn(3, network.size, generator=generator, dtype=torch.float64).to(dtype)
        flat[2] = 0
        x = torch.stack([inputs(generator) for _ in range(3)]).to(dtype)
        classes = network(flat[0], x[0]).shape[-1]
        y = torch.randint(classes, x.shape[:2], generator=generator)
        w = torch.tensor(weights, dtype=dtype).expand(3, -1)
        names = [(n, p.shape) for n, p in network.module.named_parameters()]

        def loss(parameters: Tensor, x: Tensor, y: Tensor, w: Tensor) -> Tensor:
            parts = parameters.split([shape.numel() for _, shape in names])
            named = {n: p.reshape(shape) for (n, shape), p in zip(names, parts, strict=True)}
            losses = cross_entropy(functional_call(network.module, named, (x,)), y)
            return (w * losses).sum() + parameters.square().sum() / 4

        matrix = vmap(hessian(loss))(flat, x, y, w)
        stack = LayerStack(3, lambda s: layered_loss(network, flat[s], x[s], y[s], w[s], SoftmaxLoss(), 0.5))
        return Case(DenseOperator(matrix, frozenset({SYMMETRIC, PSD, LAYERED}), stack), matrix, factored=True)

    return make


def _normal(*shape: int) -> Callable[[torch.Generator], Tensor]:
    return lambda generator: torch.randn(*shape, generator=generator, dtype=torch.float64)


def _same_twice(generator: torch.Generator) -> Tensor:
    return torch.randn(1, 4, generator=generator, dtype=torch.float64).expand(2, -1)


def _constant_image(generator: torch.Generator) -> Tensor:
    return torch.randn(1, 2, 1, 1, generator=generator, dtype=torch.float64).expand(-1, -1, 4, 4)


def _convolution() -> nn.Module:
    # Every place sees the same patch and gets the same gradient, so that the factors are exact.
    return nn.Sequential(nn.Conv2d(2, 3, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten())


CASES: dict[str, Callable[[torch.Generator, torch.dtype], Case]] = {
    "well conditioned": _definite(lambda dtype: torch.linspace(1, 10, 8)),
    "badly conditioned": _definite(lambda dtype: torch.logspace(0, 5 if dtype == torch.float64 else 3, 8)),
    "clustered eigenvalues": _definite(lambda dtype: torch.tensor([1.0, 1, 1, 1 + 1e-6, 2, 5, 5, 5 + 1e-6])),
    "twice the identity": _definite(lambda dtype: torch.full((5,), 2.0)),
    "size one": _definite(lambda dtype: torch.tensor([2.0])),
    "diagonal": _diagonal,
    "low rank plus shift": _low_rank,
    "indefinite": _indefinite,
    "batch": _batch,
    "sum": _sum,
    "linear layer, one instance": _network(lambda: nn.Linear(4, 3), _normal(1, 4), [1.0]),
    "linear layer without bias": _network(lambda: nn.Linear(4, 3, bias=False), _normal(1, 4), [0.5]),
    "one instance twice, weighed unequally": _network(lambda: nn.Linear(4, 3), _same_twice, [0.9, 0.2]),
    "convolution of a constant image": _network(_convolution, _constant_image, [1.0]),
}
"""Makers of test operators, by name; each takes a generator and a dtype."""

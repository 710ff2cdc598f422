"""Random matrices for the tests of solvers, a preconditioner that is given, and how far two matrices are apart."""

from dataclasses import dataclass

import torch

from metafluence import Preconditioner


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def with_spectrum(values: list[float], seed: int = 0) -> torch.Tensor:
    basis = torch.linalg.qr(normal(len(values), len(values), seed=seed)).Q
    matrix = basis @ torch.tensor(values, dtype=torch.float64).diag() @ basis.T
    return (matrix + matrix.T) / 2


def gap(found: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((found - wanted).norm() / wanted.norm())


@dataclass(frozen=True)
class Fixed(Preconditioner):
    """M⁻¹ = diag(entries)."""

    entries: tuple[float, ...]

    def prepare(self, operator, damping, generator):
        return torch.tensor(self.entries, dtype=operator.dtype)

    def precondition(self, state, columns):
        return state.unsqueeze(-1) * columns

"""Extremal eigenvalues of a symmetric operator (Lanczos 1950, fully reorthogonalised)."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from metafluence.operators import LinearOperator


@dataclass(frozen=True)
class Extremes:
    """Smallest and largest Ritz values; each is within its error of an eigenvalue.

    The smallest is never below the true smallest eigenvalue, nor the largest above the true largest.
    """

    smallest: float
    smallest_error: float
    largest: float
    largest_error: float
    products: int


def extreme_eigenvalues(
    operator: LinearOperator, generator: torch.Generator, steps: int = 100, rtol: float = 1e-3
) -> Extremes:
    """Ritz values after at most `steps` products, or once both errors are below `rtol` of the values themselves."""
    limit = min(steps, operator.size)
    start = torch.randn(operator.size, generator=generator, dtype=operator.dtype).to(operator.device)
    basis = (start / start.norm()).unsqueeze(1)
    alphas: list[float] = []
    betas: list[float] = []
    while True:
        product = operator.matmat(basis[:, -1:]).squeeze(1)
        alphas.append(float(basis[:, -1] @ product))
        for _ in range(2):  # once is not enough in floating point (Parlett 1980)
            product = product - basis @ (basis.T @ product)
        beta = float(product.norm())
        tridiagonal = torch.diag(torch.tensor(alphas, dtype=torch.float64))
        if betas:
            off = torch.tensor(betas, dtype=torch.float64)
            tridiagonal += torch.diag(off, 1) + torch.diag(off, -1)
        values, vectors = torch.linalg.eigh(tridiagonal)
        errors = beta * vectors[-1].abs()
        low, high = float(values[0]), float(values[-1])
        # A Krylov space that has closed holds exact eigenvalues.
        closed = beta <= 1e-12 * max(abs(low), abs(high), 1e-300)
        settled = float(errors[0]) <= rtol * abs(low) and float(errors[-1]) <= rtol * abs(high)
        if len(alphas) >= limit or closed or (settled and len(alphas) > 1):
            return Extremes(low, float(errors[0]), high, float(errors[-1]), len(alphas))
        betas.append(beta)
        basis = torch.cat([basis, (product / beta).unsqueeze(1)], dim=1)

"""Minimal residuals for symmetric operators, definite or not (Paige and Saunders, 1975)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from metafluence import SYMMETRIC, Applied, Count, LinearOperator, Preconditioner, Solver, Status, Tolerance
from metafluence_plugins.solvers.krylov import KrylovState


@dataclass(frozen=True)
class Minres(Solver):
    """MINRES; each column stops by its own residual, and a stopped column costs no more products.

    rtol: relative residual (Euclidean, also with a preconditioner) at which a column is done (100 times the precision,
    if that is more). max_iterations: None for ten times the operator's size. preconditioner: as for cg.
    """

    rtol: Tolerance = 1e-8
    max_iterations: Count | None = None
    preconditioner: Preconditioner | None = None

    requires: ClassVar[frozenset[str]] = frozenset({SYMMETRIC})

    def prepare(self, operator: LinearOperator, damping: float, generator: torch.Generator) -> KrylovState:
        return KrylovState.of(operator, damping, self.preconditioner, generator)

    def apply(self, state: KrylovState, rhs: Tensor, generator: torch.Generator) -> Applied:
        limit = self.max_iterations if self.max_iterations is not None else 10 * state.operator.size
        target = self.tolerance(rhs.dtype) * torch.linalg.vector_norm(rhs, dim=-2)
        status = torch.full((*rhs.shape[:-2], rhs.shape[-1]), int(Status.MAX_ITERATIONS), device=rhs.device)
        status[torch.linalg.vector_norm(rhs, dim=-2) <= target] = int(Status.CONVERGED)
        run = _Recurrence(state, rhs)
        iterations = 0
        while iterations < limit:
            running = status == int(Status.MAX_ITERATIONS)
            columns = running.reshape(-1, running.shape[-1]).any(dim=0).nonzero().squeeze(-1)
            if columns.numel() == 0:
                break
            iterations += 1
            size = run.step(columns, running[..., columns])
            going, ended = running[..., columns], status[..., columns]
            ended = torch.where(going & ~size.isfinite(), int(Status.BREAKDOWN), ended)
            status[..., columns] = torch.where(going & (size <= target[..., columns]), int(Status.CONVERGED), ended)
        return Applied(run.value, status, iterations)

    def tolerance(self, dtype: torch.dtype) -> float:
        return max(self.rtol, 100 * torch.finfo(dtype).eps)


class _Recurrence:
    """Lanczos, and Givens rotations of its tridiagonal matrix; Paige and Saunders' letters."""

    def __init__(self, state: KrylovState, rhs: Tensor) -> None:
        self._state = state
        self.value = torch.zeros_like(rhs)
        self.residual = rhs.clone()
        y = state.positive(rhs)
        beta = (rhs * y).sum(dim=-2).clamp(min=0).sqrt()
        zeros, none = torch.zeros_like(rhs), torch.zeros_like(beta)
        # What one step hands to the next: vectors [*batch, n, k], then scalars [*batch, k].
        self._kept = {"r1": rhs.clone(), "r2": rhs.clone(), "y": y.clone()}
        self._kept |= {name: zeros.clone() for name in ("w", "w_old", "aw", "aw_old")}
        self._kept |= {"beta": beta, "beta_old": none.clone(), "delta_bar": none.clone(), "epsilon": none.clone()}
        self._kept |= {"phi_bar": beta.clone(), "cosine": none - 1, "sine": none.clone()}

    def step(self, columns: Tensor, going: Tensor) -> Tensor:
        """One product for the columns. Returns the norm of each one's residual, [*batch, columns]."""
        k = {name: kept[..., columns] for name, kept in self._kept.items()}
        beta = torch.where(k["beta"] > 0, k["beta"], 1.0)
        v = k["y"] / beta.unsqueeze(-2)
        product = self._state.operator.matmat(v)
        first = torch.where(k["beta_old"] > 0, k["beta"] / torch.where(k["beta_old"] > 0, k["beta_old"], 1.0), 0.0)
        y = product - first.unsqueeze(-2) * k["r1"]
        alpha = (v * y).sum(dim=-2)
        y = y - (alpha / beta).unsqueeze(-2) * k["r2"]
        r1, r2 = k["r2"], y
        y = self._state.positive(r2)
        beta_new = (r2 * y).sum(dim=-2).clamp(min=0).sqrt()
        # The previous rotation, then the one that annihilates beta_new.
        delta = k["cosine"] * k["delta_bar"] + k["sine"] * alpha
        gamma_bar = k["sine"] * k["delta_bar"] - k["cosine"] * alpha
        epsilon, delta_bar = k["sine"] * beta_new, -k["cosine"] * beta_new
        gamma = torch.hypot(gamma_bar, beta_new)
        gamma = torch.where(gamma > 0, gamma, torch.finfo(gamma.dtype).tiny ** 0.5)
        cosine, sine = gamma_bar / gamma, beta_new / gamma
        phi = cosine * k["phi_bar"]

        def combine(new: Tensor, older: Tensor, old: Tensor) -> Tensor:
            mixed = new - k["epsilon"].unsqueeze(-2) * older - delta.unsqueeze(-2) * old
            return mixed / gamma.unsqueeze(-2)

        w, aw = combine(v, k["w_old"], k["w"]), combine(product, k["aw_old"], k["aw"])
        # Where a member of the batch is done, what its recurrence goes on to give is not used.
        going, phi = going.unsqueeze(-2), phi.unsqueeze(-2)
        self.value[..., columns] += torch.where(going, phi * w, 0.0)
        # A w is known, so the true residual costs no product, whatever norm the preconditioner brings.
        rest = self.residual[..., columns] - torch.where(going, phi * aw, 0.0)
        self.residual[..., columns] = rest
        new = {"r1": r1, "r2": r2, "y": y, "w": w, "w_old": k["w"], "aw": aw, "aw_old": k["aw"]}
        new |= {"beta": beta_new, "beta_old": k["beta"], "delta_bar": delta_bar, "epsilon": epsilon}
        new |= {"phi_bar": sine * k["phi_bar"], "cosine": cosine, "sine": sine}
        for name, value in new.items():
            self._kept[name][..., columns] = value
        return torch.linalg.vector_norm(rest, dim=-2)

"""The Neumann series, as a fixed-step iteration (Lorraine, Vicol and Duvenaud 2020 use it for bilevel problems)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from metafluence import (
    SYMMETRIC,
    Applied,
    Count,
    Extremes,
    LinearOperator,
    Positive,
    Preconditioner,
    Solver,
    SolverError,
    Status,
    Tolerance,
)
from metafluence_plugins.solvers.krylov import KrylovState

# A residual that falls by less than this factor over so many steps is not going to arrive.
STRETCH, SLOWEST = 100, 0.999


@dataclass(frozen=True, eq=False)
class NeumannState:
    """A + damping I and M⁻¹, the step [*batch] and the extremal eigenvalues of M⁻¹ (A + damping I)."""

    system: KrylovState
    step: Tensor
    extremes: Extremes


@dataclass(frozen=True)
class Neumann(Solver):
    """x <- x + step M⁻¹ (b − A x): after J steps, step Σ_{j<J} (I − step M⁻¹ A)ʲ M⁻¹ b.

    Converges if 0 < step < 2/λ_max, λ the eigenvalues of M⁻¹ A. M = I without a preconditioner; with one it is ASTRA
    (Wang et al. 2025).

    step: None for 2/(λ_min + λ_max) from a few Lanczos steps, separately for each member of a batch; a given one is
    checked against them before anything is iterated. truncation: exactly J steps, with an answer that is approximate by
    design; None: as many as reach rtol (or 100 times the precision, if that is more). lanczos_steps: products spent on
    the eigenvalues. preconditioner: as for cg.
    """

    step: Positive | None = None
    truncation: Count | None = None
    rtol: Tolerance = 1e-8
    max_iterations: Count = 20_000
    lanczos_steps: Count = 30
    preconditioner: Preconditioner | None = None

    requires: ClassVar[frozenset[str]] = frozenset({SYMMETRIC})

    def prepare(self, operator: LinearOperator, damping: float, generator: torch.Generator) -> NeumannState:
        system = KrylovState.of(operator, damping, self.preconditioner, generator)
        extremes = system.extremes(system.operator, generator, self.lanczos_steps)
        # A Ritz value lies inside the spectrum; its error says how far an eigenvalue may lie outside.
        largest = extremes.largest + extremes.largest_error
        system.refuse_indefinite("neumann", extremes)
        best = 2 / (largest + extremes.smallest)
        if self.step is None:
            return NeumannState(system, best, extremes)
        limit = 2 / float(largest.max())
        if not 0 < self.step < limit:
            raise SolverError(
                f"neumann diverges with step {self.step:g}: the largest eigenvalue is {float(largest.max()):.4g}, and "
                f"the step must lie between 0 and 2/λ_max = {limit:.4g}. step {float(best.min()):.3g} converges "
                "(leave step out to have it chosen)."
            )
        return NeumannState(system, torch.full_like(best, self.step), extremes)

    def apply(self, state: NeumannState, rhs: Tensor, generator: torch.Generator) -> Applied:
        limit = self.truncation if self.truncation is not None else self.max_iterations
        step = state.step[..., None, None]
        value = torch.zeros_like(rhs)
        change = state.system.precondition(rhs)
        norm = torch.linalg.vector_norm(rhs, dim=-2)
        open_ = Status.MAX_ITERATIONS if self.truncation is None else Status.APPROXIMATE
        status = torch.full(norm.shape, int(open_), device=rhs.device)
        status[norm == 0] = int(Status.CONVERGED)
        target = self.tolerance(rhs.dtype) * norm
        # ‖b‖² in M⁻¹, in which every step shrinks the residual.
        first = (rhs * change).sum(dim=-2)
        iterations, best = 0, torch.full_like(norm, torch.inf)
        while iterations < limit:
            running = status == int(open_)
            columns = running.reshape(-1, running.shape[-1]).any(dim=0).nonzero().squeeze(-1)
            if columns.numel() == 0:
                break
            iterations += 1
            going = running[..., columns].unsqueeze(-2)
            value[..., columns] += torch.where(going, step * change[..., columns], 0.0)
            if iterations == limit and self.truncation is not None:
                break  # the residual of the last term is not asked for, and would cost a product
            rest = rhs[..., columns] - state.system.operator.matmat(value[..., columns])
            nearer = state.system.precondition(rest)
            change[..., columns] = nearer
            size, squared = torch.linalg.vector_norm(rest, dim=-2), (rest * nearer).sum(dim=-2)
            ended = status[..., columns]
            # An eigenvalue that Lanczos did not see can still make it diverge.
            grown = running[..., columns] & ~(squared <= 1e12 * first[..., columns])
            ended = torch.where(grown, int(Status.BREAKDOWN), ended)
            if self.truncation is None:
                there = running[..., columns] & (size <= target[..., columns])
                ended = torch.where(there, int(Status.CONVERGED), ended)
            status[..., columns] = ended
            if iterations % STRETCH == 0 and self.truncation is None:
                # So slow that max_iterations would not do, or at the limit of the precision.
                if not bool((size < SLOWEST * best[..., columns])[running[..., columns]].any()):
                    break
                best[..., columns] = size
        return Applied(value, status, iterations, self._note(state, status))

    def tolerance(self, dtype: torch.dtype) -> float:
        return max(self.rtol, 100 * torch.finfo(dtype).eps)

    def _note(self, state: NeumannState, status: Tensor) -> str:
        if not bool((status == int(Status.MAX_ITERATIONS)).any()):
            return ""
        # The slowest component shrinks by 1 − step λ_min in each step.
        shrink = float((state.step * state.extremes.smallest).min())
        needed = math.log(1 / self.rtol) / max(-math.log1p(-min(shrink, 1 - 1e-12)), 1e-300) if self.rtol > 0 else 0
        return f"About {needed:.0f} steps are needed at this condition number; cg takes far fewer." if needed else ""

"""LiSSA: the Neumann iteration on sampled parts of a sum (Agarwal, Bullins and Hazan 2017; Koh and Liang 2017)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from metafluence import (
    SUM,
    SYMMETRIC,
    Applied,
    Count,
    InputError,
    LinearOperator,
    Positive,
    Preconditioner,
    ShiftedOperator,
    Solver,
    SolverError,
    Status,
)
from metafluence_plugins.solvers.krylov import KrylovState

# Products spent on the eigenvalues of the operator, and of each part.
LANCZOS_STEPS = 12


@dataclass(frozen=True, eq=False)
class LissaState:
    """M⁻¹, the parts, whose mean is A + damping I, and the step [*batch]."""

    system: KrylovState
    parts: tuple[LinearOperator, ...]
    step: Tensor


@dataclass(frozen=True)
class Lissa(Solver):
    """x <- x + step M⁻¹ (b − A_s x) with a part A_s of the sum drawn anew in each of `iterations` steps.

    The operator is cut into `parts` random parts of its terms (tasks, instances); a step costs one product with one of
    them. `repeats` independent runs are averaged, and their spread gives the standard error of the answer. In
    expectation this is the Neumann series truncated at `iterations`. step: None for 1/λ_max of the parts, which keeps
    every step stable; a given one must be below 2/λ_max. preconditioner: M⁻¹ of the whole operator, as for cg; λ_max
    is then of M⁻¹ A_s (Wang et al. 2025, ASTRA). M = I without one.
    """

    iterations: Count = 1000
    repeats: Count = 8
    parts: Count = 8
    step: Positive | None = None
    preconditioner: Preconditioner | None = None

    requires: ClassVar[frozenset[str]] = frozenset({SYMMETRIC, SUM})
    approximate: ClassVar[bool] = True
    symmetric: ClassVar[bool] = False  # sampled factors do not commute

    def __post_init__(self) -> None:
        if self.repeats < 2:
            raise InputError(f"lissa needs repeats >= 2 for its standard error; it is {self.repeats}. Try 8.")
        if self.parts < 1 or self.iterations < 1:
            raise InputError(f"lissa needs parts and iterations >= 1; they are {self.parts} and {self.iterations}.")

    def prepare(self, operator: LinearOperator, damping: float, generator: torch.Generator) -> LissaState:
        # The mean must contract for the expectation to converge, and every part for a single run to stay near it.
        system = KrylovState.of(operator, damping, self.preconditioner, generator)
        system.refuse_indefinite("lissa", system.extremes(system.operator, generator, LANCZOS_STEPS))
        parts = [ShiftedOperator(p, damping) if damping else p for p in operator.split(self.parts, generator)]
        found = [system.extremes(part, generator, LANCZOS_STEPS) for part in parts]
        largest = torch.stack([e.largest + e.largest_error for e in found]).amax(dim=0)
        top = float(largest.max())
        if self.step is not None and not 0 < self.step < 2 / top:
            raise SolverError(
                f"lissa diverges with step {self.step:g}: the largest eigenvalue of its sampled parts is {top:.4g}; "
                f"the step must lie between 0 and {2 / top:.3g}. step {1 / top:.3g} is stable (leave step out to have "
                "it chosen)."
            )
        step = 1 / largest if self.step is None else torch.full_like(largest, self.step)
        return LissaState(system, tuple(parts), step)

    def apply(self, state: LissaState, rhs: Tensor, generator: torch.Generator) -> Applied:
        step = state.step[..., None, None]
        runs = torch.zeros(self.repeats, *rhs.shape, dtype=rhs.dtype, device=rhs.device)
        shape = (self.iterations, self.repeats)
        drawn = torch.randint(len(state.parts), shape, generator=generator, device=generator.device)
        taken, bound = 0, 1e8 * torch.linalg.vector_norm(state.system.precondition(rhs)) * state.step.max()
        for draw in drawn:
            taken += 1
            # Runs that drew the same part share its product.
            for part in draw.unique().tolist():
                mine = (draw == part).nonzero().squeeze(-1)
                columns = torch.cat(list(runs[mine]), dim=-1)
                product = torch.stack(state.parts[part].matmat(columns).chunk(len(mine), dim=-1))
                rest = torch.cat(list(rhs - product), dim=-1)
                runs[mine] += step * torch.stack(state.system.precondition(rest).chunk(len(mine), dim=-1))
            if taken % 50 == 0 and not bool(torch.linalg.vector_norm(runs) <= bound * taken * self.repeats):
                break
        value = runs.mean(dim=0)
        spread = torch.linalg.vector_norm(runs.std(dim=0), dim=-2) / self.repeats**0.5
        size = torch.linalg.vector_norm(value, dim=-2)
        status = torch.full(size.shape, int(Status.APPROXIMATE), device=rhs.device)
        status[(rhs == 0).all(dim=-2)] = int(Status.CONVERGED)
        note = ""
        if taken < self.iterations:
            status[:] = int(Status.BREAKDOWN)
            note = f"It diverged within {taken} steps: the sampled parts differ too much. Give a smaller step."
        return Applied(value, status, taken, note, spread / torch.where(size > 0, size, 1.0))

    def tolerance(self, dtype: torch.dtype) -> float:
        return float(torch.finfo(dtype).eps ** 0.5)

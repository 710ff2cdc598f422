"""Inverse-Hessian solves: the solver interface, and the one place where residuals and products are counted."""

from __future__ import annotations

import enum
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from metafluence.errors import InputError, SolverError
from metafluence.linalg.operators import (
    LAYERED,
    LOW_RANK,
    PSD,
    SUM,
    SYMMETRIC,
    CountingOperator,
    LinearOperator,
    ShiftedOperator,
)
from metafluence.registry import Component
from metafluence.runtime import settle


class Status(enum.IntEnum):
    """How one column of a solve ended, as its solver saw it; from APPROXIMATE on, the larger the worse."""

    CONVERGED = 0
    APPROXIMATE = 1
    MAX_ITERATIONS = 2
    NEGATIVE_CURVATURE = 3
    INACCURATE = 4
    BREAKDOWN = 5

    @property
    def sentence(self) -> str:
        return _SENTENCES[self]

    @property
    def failed(self) -> bool:
        return self > Status.APPROXIMATE


_SENTENCES = {
    Status.CONVERGED: "The solve reached its tolerance.",
    Status.APPROXIMATE: "The answer is approximate by design; its measured residual says how good it is.",
    Status.MAX_ITERATIONS: (
        "The solver used all its iterations before reaching its tolerance. "
        "Raise max_iterations, loosen rtol, or add damping."
    ),
    Status.NEGATIVE_CURVATURE: (
        "The operator has negative curvature, so it is not positive definite at this point. Fit closer to a minimum, "
        "raise the objective's l2, add damping, use a solver for indefinite operators (minres, exact), or a curvature "
        "that is always positive (gauss-newton, fisher)."
    ),
    Status.INACCURATE: (
        "The residual measured after the solve is larger than the solver claims. The operator is too ill-conditioned "
        "for this precision: use float64, raise l2, or add damping."
    ),
    Status.BREAKDOWN: (
        "The solve met NaN or infinite values. Check the right-hand side and the operator, or use float64."
    ),
}

_LACKS = {
    SYMMETRIC: "it needs a symmetric operator, as all solvers do (use another curvature)",
    PSD: "it needs an operator that is known to be positive semi-definite (use minres or exact, or the curvature "
    "gauss-newton)",
    SUM: "it samples the terms of a sum, and this operator cannot be given in parts (use neumann, which makes the same "
    "steps with full products, or cg)",
    LAYERED: "it works on the layers of a network, which only the inner Hessian of a learner that knows its layers "
    "gives (use cg, minres or exact, which need products only; nystrom preconditions any operator)",
    LOW_RANK: "it needs shift I + V Vᵀ (use it with the curvature fisher; for others use cg or exact)",
}


@dataclass(frozen=True)
class Applied:
    """What a solver returns: `value` [*batch, n, k], `status` [*batch, k] (int), iterations used, and a note.

    standard_error: of a solver that samples, ‖standard error of x‖ / ‖x‖ per column [*batch, k].
    """

    value: Tensor
    status: Tensor
    iterations: int = 0
    note: str = ""
    standard_error: Tensor | None = None


class Solver(Component, ABC):
    """Solves (A + damping I) X = B. A frozen dataclass: its fields are its configuration.

    requires: tags that the operator must carry. A solver sees an operator, never data. Work that depends on the
    operator alone is done once, in `prepare`; `apply` may then be called any number of times.
    Both take batches: operator [*batch, n, n], right-hand side [*batch, n, k]. All randomness comes from `generator`.
    approximate: the answer is an approximation however long it works, and its columns end as Status.APPROXIMATE.
    symmetric: the answer is a symmetric function of the right-hand side, as the inverse is, up to the tolerance.
    """

    requires: ClassVar[frozenset[str]] = frozenset()
    approximate: ClassVar[bool] = False
    symmetric: ClassVar[bool] = True

    @abstractmethod
    def prepare(self, operator: LinearOperator, damping: float, generator: torch.Generator) -> Any:
        """Reusable state for this operator and this absolute damping. Must leave `operator` as it is."""

    @abstractmethod
    def apply(self, state: Any, rhs: Tensor, generator: torch.Generator) -> Applied:
        """Solve for all columns of `rhs` [*batch, n, k]. Must not write into `rhs`."""

    @abstractmethod
    def tolerance(self, dtype: torch.dtype) -> float:
        """The relative residual that this solver claims for a column it calls converged."""

    def sweep(
        self, operator: LinearOperator, dampings: Sequence[float], rhs: Tensor, generator: torch.Generator
    ) -> list[Applied]:
        """Solve for the same `rhs` with each damping. Solvers that can share work between dampings override this."""
        seed = int(torch.randint(2**31, (), generator=generator, device=generator.device))
        found = []
        for damping in dampings:
            same = torch.Generator(generator.device).manual_seed(seed)
            found.append(self.apply(self.prepare(operator, damping, same), rhs, same))
        return found


class Preconditioner(Component, ABC):
    """A cheap approximate inverse M⁻¹ of A + damping I, symmetric and positive definite. A frozen dataclass."""

    requires: ClassVar[frozenset[str]] = frozenset()

    @abstractmethod
    def prepare(self, operator: LinearOperator, damping: float, generator: torch.Generator) -> Any:
        """Reusable state for this operator and this absolute damping."""

    @abstractmethod
    def precondition(self, state: Any, columns: Tensor) -> Tensor:
        """M⁻¹ times columns [*batch, n, k]: the same linear map at every call."""


def check_requirements(component: Solver | Preconditioner, operator: LinearOperator) -> None:
    """Raises SolverError where the operator lacks a tag that the component requires, and says what works instead."""
    missing = sorted(component.requires - operator.tags)
    if missing:
        reasons = "; ".join(_LACKS.get(tag, f"it needs an operator tagged {tag!r}") for tag in missing)
        raise SolverError(
            f"{type(component).__name__} cannot be used with this operator ({type(_innermost(operator)).__name__}): "
            f"{reasons}."
        )


@dataclass(frozen=True)
class Solution:
    """A solve, judged from outside.

    value: X [*batch, n, k]. residual: ‖B − (A + damping I) X‖ / ‖B‖ [*batch, k], measured here (NaN: not).
    status: [*batch, k], values of Status. matvecs: products with A, one per column (rounded up), preparation and
    measuring not included. seconds: wall time of the solve. standard_error: see Applied.
    """

    value: Tensor
    residual: Tensor
    status: Tensor
    iterations: int
    matvecs: int
    seconds: float
    note: str = ""
    standard_error: Tensor | None = None

    @property
    def converged(self) -> bool:
        """All columns reached the solver's tolerance."""
        return bool((self.status == Status.CONVERGED).all())

    @property
    def failed(self) -> bool:
        """Some column is neither converged nor approximate by design."""
        return Status(int(self.status.max())).failed if self.status.numel() else False

    def complaint(self) -> str:
        """One sentence for the worst column, or an empty string where all is well."""
        if self.converged:
            return ""
        worst = Status(int(self.status.max()))
        count = int((self.status == worst).sum())
        largest = float(self.residual.max())
        shown = "residuals were not measured" if math.isnan(largest) else f"largest residual {largest:.1e}"
        note = f" {self.note}" if self.note else ""
        if self.standard_error is not None and not worst.failed:
            note += f" Its standard error is {100 * float(self.standard_error.max()):.1f} %."
        how = "not solved" if worst.failed else "approximate"
        return f"{count} of {self.status.numel()} columns {how} ({shown}). {worst.sentence}{note}"


class PreparedSolve:
    """A solver bound to an operator and a damping; the preparation is done once and kept.

    Without a generator the solver's randomness starts from the same seed at every solve, so that a random solver is
    a fixed linear map. Raises SolverError when the operator lacks a tag that the solver requires, or when preparation
    is refused.
    """

    def __init__(
        self, solver: Solver, operator: LinearOperator, damping: float = 0.0, generator: torch.Generator | None = None
    ) -> None:
        check_requirements(solver, operator)
        self.solver = solver
        self.damping = damping
        self._damped = ShiftedOperator(operator, damping) if damping else operator
        self._counter = CountingOperator(operator)
        started = time.perf_counter()
        self.state = solver.prepare(self._counter, damping, generator or _fresh())
        self.seconds = time.perf_counter() - started
        self.matvecs = math.ceil(self._counter.products)

    def solve(
        self, rhs: Tensor, generator: torch.Generator | None = None, strict: bool = True, judge: bool = True
    ) -> Solution:
        """Solve for the columns of `rhs` [*batch, n, k].

        With `strict` (the default) a column that failed raises SolverError; else its status and residual travel with
        the result. Without `judge` residuals are not measured (NaN), which saves a product for each column: for
        solvers that are approximate by design and make no product of their own.
        """
        _check_columns(self._counter, rhs)
        before, started = self._counter.products, time.perf_counter()
        applied = self.solver.apply(self.state, rhs, generator or _fresh())
        settle(applied.value)
        seconds = time.perf_counter() - started
        matvecs = math.ceil(self._counter.products - before)
        solution = _judge(self.solver, self._damped if judge else None, rhs, applied, matvecs, seconds)
        if strict and solution.failed:
            raise SolverError(f"{type(self.solver).__name__}: {solution.complaint()}")
        return solution


def solve(
    solver: Solver,
    operator: LinearOperator,
    rhs: Tensor,
    damping: float = 0.0,
    generator: torch.Generator | None = None,
    strict: bool = True,
) -> Solution:
    """Solve (A + damping I) X = B once. Keep a `PreparedSolve` for several right-hand sides."""
    return PreparedSolve(solver, operator, damping, generator).solve(rhs, generator, strict)


def solve_sweep(
    solver: Solver,
    operator: LinearOperator,
    rhs: Tensor,
    dampings: Sequence[float],
    generator: torch.Generator | None = None,
) -> list[Solution]:
    """Solve (A + damping I) X = B for each damping, from one factorisation or Krylov space where the solver can.

    `matvecs` and `seconds` of every Solution are those of the whole sweep. Columns that fail keep their status.
    """
    check_requirements(solver, operator)
    _check_columns(operator, rhs)
    counter = CountingOperator(operator)
    started = time.perf_counter()
    found = solver.sweep(counter, dampings, rhs, generator or _fresh())
    settle(found[-1].value)
    seconds, matvecs = time.perf_counter() - started, math.ceil(counter.products)
    return [
        _judge(solver, ShiftedOperator(operator, damping), rhs, applied, matvecs, seconds)
        for damping, applied in zip(dampings, found, strict=True)
    ]


def relative_residual(operator: LinearOperator, value: Tensor, rhs: Tensor) -> Tensor:
    """‖B − A X‖ / ‖B‖ per column, [*batch, k]; a zero column has residual ‖A x‖."""
    error = torch.linalg.vector_norm(rhs - operator.matmat(value), dim=-2)
    norm = torch.linalg.vector_norm(rhs, dim=-2)
    return error / torch.where(norm > 0, norm, torch.ones_like(norm))


def _judge(
    solver: Solver, damped: LinearOperator | None, rhs: Tensor, applied: Applied, matvecs: int, seconds: float
) -> Solution:
    """Measure the residual, if there is what to do so by, and correct a status that claims more than it shows."""
    status = applied.status.clone()
    if damped is None:
        residual = torch.full(status.shape, float("nan"), dtype=rhs.dtype, device=rhs.device)
        status[~applied.value.isfinite().all(dim=-2)] = Status.BREAKDOWN
    else:
        residual = relative_residual(damped, applied.value, rhs)
        status[(status == Status.CONVERGED) & (residual > 10 * solver.tolerance(rhs.dtype))] = Status.INACCURATE
        status[~residual.isfinite()] = Status.BREAKDOWN
    return Solution(
        applied.value, residual, status, applied.iterations, matvecs, seconds, applied.note, applied.standard_error
    )


def _check_columns(operator: LinearOperator, rhs: Tensor) -> None:
    expected = (*operator.batch_shape, operator.size)
    if tuple(rhs.shape[:-1]) != expected:
        raise InputError(f"The right-hand side has shape {tuple(rhs.shape)}; expected {expected} and then columns.")


def _fresh() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def _innermost(operator: LinearOperator) -> LinearOperator:
    while isinstance(operator, CountingOperator | ShiftedOperator):
        operator = operator.operator
    return operator

"""Solving with a solver, and measuring from outside what it claims: residuals and products are counted here alone."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from metafluence.errors import InputError, SolverError
from metafluence.linalg.operators import CountingOperator, LinearOperator, ShiftedOperator
from metafluence.linalg.solvers import Applied, Solver, Status, check_requirements
from metafluence.runtime import notebook_view, settle

ALLOWANCE = 10.0
"""How far a converged column's measured residual may be above the tolerance: solvers update theirs by recurrences,
which rounding moves away from the true one."""


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

    def _repr_html_(self) -> str:
        """For a notebook: how the solve went."""
        solved = int((self.status == Status.CONVERGED).sum())
        title = f"Solution {list(self.value.shape)}: {solved} of {self.status.numel()} columns converged"
        residual = float(self.residual.max()) if self.residual.numel() else math.nan
        facts = [("largest residual", residual), ("iterations", self.iterations), ("products", self.matvecs)]
        return notebook_view(title, [self.complaint()], ("", ""), [*facts, ("seconds", self.seconds)])

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
        status[(status == Status.CONVERGED) & (residual > ALLOWANCE * solver.tolerance(rhs.dtype))] = Status.INACCURATE
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

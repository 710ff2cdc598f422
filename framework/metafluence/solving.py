"""Inverse-Hessian solves: the solver interface, and the one place where residuals and products are counted."""

from __future__ import annotations

import enum
import time
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from metafluence.errors import InputError, SolverError
from metafluence.operators import CountingOperator, LinearOperator, ShiftedOperator


class Status(enum.IntEnum):
    """How one column of a solve ended, as its solver saw it."""

    CONVERGED = 0
    MAX_ITERATIONS = 1
    NEGATIVE_CURVATURE = 2
    INACCURATE = 3
    BREAKDOWN = 4

    @property
    def sentence(self) -> str:
        return _SENTENCES[self]


_SENTENCES = {
    Status.CONVERGED: "The solve reached its tolerance.",
    Status.MAX_ITERATIONS: (
        "The solver used all its iterations before reaching its tolerance. "
        "Raise max_iterations, loosen rtol, or add damping."
    ),
    Status.NEGATIVE_CURVATURE: (
        "The operator has negative curvature, so it is not positive definite at this point. Fit closer to a minimum, "
        "raise the objective's l2, add damping, or use a solver for indefinite operators (exact)."
    ),
    Status.INACCURATE: (
        "The residual measured after the solve is larger than the solver claims. The operator is too ill-conditioned "
        "for this precision: use float64, raise l2, or add damping."
    ),
    Status.BREAKDOWN: (
        "The solve met NaN or infinite values. Check the right-hand side and the operator, or use float64."
    ),
}


@dataclass(frozen=True)
class Applied:
    """What a solver returns: `value` [*batch, n, k], `status` [*batch, k] (int), iterations used, and a note."""

    value: Tensor
    status: Tensor
    iterations: int = 0
    note: str = ""


class Solver(ABC):
    """Solves (A + damping I) X = B. A frozen dataclass: its fields are its configuration.

    requires: tags that the operator must carry. A solver sees an operator, never data. Work that depends on the
    operator alone is done once, in `prepare`; `apply` may then be called any number of times.
    Both take batches: operator [*batch, n, n], right-hand side [*batch, n, k].
    """

    requires: ClassVar[frozenset[str]] = frozenset()

    @abstractmethod
    def prepare(self, operator: LinearOperator, damping: float) -> Any:
        """Reusable state for this operator and this absolute damping. Must leave `operator` as it is."""

    @abstractmethod
    def apply(self, state: Any, rhs: Tensor, generator: torch.Generator | None = None) -> Applied:
        """Solve for all columns of `rhs` [*batch, n, k]. Must not write into `rhs`."""

    @abstractmethod
    def tolerance(self, dtype: torch.dtype) -> float:
        """The relative residual that this solver claims for a column it calls converged."""


@dataclass(frozen=True)
class Solution:
    """A solve, judged from outside.

    value: X [*batch, n, k]. residual: ‖B − (A + damping I) X‖ / ‖B‖ [*batch, k], measured here, 0 for a zero column.
    status: [*batch, k], values of Status. matvecs: products with A, one per column, preparation and measuring
    not included. seconds: wall time of the solve.
    """

    value: Tensor
    residual: Tensor
    status: Tensor
    iterations: int
    matvecs: int
    seconds: float
    note: str = ""

    @property
    def converged(self) -> bool:
        return bool((self.status == Status.CONVERGED).all())

    def complaint(self) -> str:
        """One sentence for the worst column, or an empty string where all is well."""
        if self.converged:
            return ""
        worst = Status(int(self.status.max()))
        count = int((self.status != Status.CONVERGED).sum())
        largest = float(self.residual.max())
        note = f" {self.note}" if self.note else ""
        return (
            f"{count} of {self.status.numel()} columns not solved (largest residual {largest:.1e}). "
            f"{worst.sentence}{note}"
        )


class PreparedSolve:
    """A solver bound to an operator and a damping; the preparation is done once and kept.

    Raises SolverError when the operator lacks a tag that the solver requires, or when preparation is refused.
    """

    def __init__(self, solver: Solver, operator: LinearOperator, damping: float = 0.0) -> None:
        missing = solver.requires - operator.tags
        name = type(solver).__name__
        if missing:
            raise SolverError(
                f"{name} needs an operator that is {' and '.join(sorted(missing))}; this one is only "
                f"{' and '.join(sorted(operator.tags)) or 'a plain matrix'}. Use a solver without that need (exact), "
                "or a curvature that has the property."
            )
        self.solver = solver
        self.damping = damping
        self._damped = ShiftedOperator(operator, damping) if damping else operator
        self._counter = CountingOperator(operator)
        started = time.perf_counter()
        self.state = solver.prepare(self._counter, damping)
        self.seconds = time.perf_counter() - started
        self.matvecs = self._counter.products

    def solve(self, rhs: Tensor, generator: torch.Generator | None = None, strict: bool = True) -> Solution:
        """Solve for the columns of `rhs` [*batch, n, k].

        With `strict` (the default) a column that is not converged raises SolverError; else its status and
        residual travel with the result.
        """
        expected = (*self._counter.batch_shape, self._counter.size)
        if tuple(rhs.shape[:-1]) != expected:
            raise InputError(f"The right-hand side has shape {tuple(rhs.shape)}; expected {expected} and then columns.")
        before, started = self._counter.products, time.perf_counter()
        applied = self.solver.apply(self.state, rhs, generator)
        seconds = time.perf_counter() - started
        matvecs = self._counter.products - before
        residual = relative_residual(self._damped, applied.value, rhs)
        status = applied.status.clone()
        broken = ~residual.isfinite()
        claimed = 10 * self.solver.tolerance(rhs.dtype)
        status[(status == Status.CONVERGED) & (residual > claimed)] = Status.INACCURATE
        status[broken] = Status.BREAKDOWN
        solution = Solution(applied.value, residual, status, applied.iterations, matvecs, seconds, applied.note)
        if strict and not solution.converged:
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
    return PreparedSolve(solver, operator, damping).solve(rhs, generator, strict)


def relative_residual(operator: LinearOperator, value: Tensor, rhs: Tensor) -> Tensor:
    """‖B − A X‖ / ‖B‖ per column, [*batch, k]; a zero column has residual ‖A x‖."""
    error = torch.linalg.vector_norm(rhs - operator.matmat(value), dim=-2)
    norm = torch.linalg.vector_norm(rhs, dim=-2)
    return error / torch.where(norm > 0, norm, torch.ones_like(norm))

"""What solves (A + damping I) X = B: the interfaces of solvers and preconditioners."""

from __future__ import annotations

import enum
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from metafluence.errors import SolverError
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

    A solver sees an operator, never data. Work that depends on the operator alone is done once, in `prepare`; `apply`
    may then be called any number of times. Both take batches: operators [*batch, n, n], right-hand sides
    [*batch, n, k]. All randomness comes from `generator`.

    Class variables:
        requires: tags that the operator must carry.
        approximate: the answer stays an approximation however long it works; its columns end as Status.APPROXIMATE.
        symmetric: the answer is a symmetric linear map of the right-hand side, as the inverse is, up to the tolerance.

    Example:
        >>> import torch, metafluence as mf
        >>> operator = mf.DenseOperator(torch.tensor([[2.0, 0.0], [0.0, 4.0]], dtype=torch.float64))
        >>> rhs = torch.ones(2, 1, dtype=torch.float64)
        >>> solution = mf.solve(mf.build("solver", "cg"), operator, rhs, damping=1.0)
        >>> solution.value.squeeze(1)  # 1/3 and 1/5
        tensor([0.3333, 0.2000], dtype=torch.float64)
        >>> solution.converged, bool((solution.residual < 1e-8).all())
        (True, True)
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
    """A cheap approximate inverse M⁻¹ of A + damping I, symmetric and positive definite. A frozen dataclass.

    Class variables:
        requires: tags that the operator must carry.

    Example:
        >>> import torch, metafluence as mf
        >>> nystrom = mf.build("preconditioner", "nystrom", rank=2)
        >>> operator = mf.DenseOperator(torch.diag(torch.tensor([100.0, 1.0, 1.0], dtype=torch.float64)))
        >>> state = nystrom.prepare(operator, 0.0, torch.Generator().manual_seed(0))
        >>> columns = torch.eye(3, dtype=torch.float64)
        >>> found = nystrom.precondition(state, columns) @ operator.dense()
        >>> bool(torch.linalg.eigvals(found).real.max() < 1.5)  # of a condition number of 100, little is left
        True
    """

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


def _innermost(operator: LinearOperator) -> LinearOperator:
    while isinstance(operator, CountingOperator | ShiftedOperator):
        operator = operator.operator
    return operator

"""The damping sweep: how far scores depend on a damping, and which damping agrees best with ground truth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import pandas as pd
import torch
from torch import Tensor

from metafluence.attribution import Targets
from metafluence.bilevel import Curvature, Point
from metafluence.errors import InputError
from metafluence.evaluation.ground_truth import Truth
from metafluence.evaluation.metrics import change_agreement, median, moved, score_agreement
from metafluence.linalg import LinearOperator, Solution, Solver, Status, extreme_eigenvalues, solve_sweep

NAN = float("nan")
# Columns solved together; a Krylov space is kept for each.
BLOCK = 16


@dataclass(frozen=True)
class Damped:
    """One damping of a sweep.

    smallest_eigenvalue: smallest Ritz value of C + damping I. residual: the largest of the solves. status: in words,
    empty where all is well. stability: Spearman of the scores with those at the next smaller damping (NaN for the
    first). spearman, slope, change_error: against exact retraining, NaN without it; change_error is the median of
    ‖predicted − true Δλ‖ / ‖true Δλ‖.
    """

    damping: float
    smallest_eigenvalue: float
    residual: float
    status: str = ""
    stability: float = NAN
    spearman: float = NAN
    slope: float = NAN
    change_error: float = NAN


@dataclass(frozen=True)
class DampingSweep:
    """rows: by damping, ascending. scores: [N, dampings], the predicted loss change on removing each task.

    products: with the Hessian, of all solves together; one solve's, where the solver shares its work. against: what the
    truth is called.
    """

    rows: tuple[Damped, ...]
    scores: Tensor
    products: int
    against: str = ""

    def frame(self) -> pd.DataFrame:
        return pd.DataFrame([asdict(row) for row in self.rows])


def sweep_damping(
    point: Point,
    targets: Targets,
    curvature: Curvature,
    solver: Solver,
    dampings: Sequence[float],
    truth: Truth | None = None,
    generator: torch.Generator | None = None,
) -> DampingSweep:
    """Score all tasks by (C + damping I)⁻¹ for each damping, from one factorisation or Krylov space where possible.

    Targets are their mean. A solve that fails is a row with its status, not an error. Raises InputError for dampings
    that are negative or fewer than two, and SolverError where the solver cannot be used with the curvature at all.
    """
    values = sorted(set(map(float, dampings)))
    if len(values) < 2 or values[0] < 0:
        raise InputError(f"A sweep needs at least two dampings of 0 or more; got {list(dampings)}.")
    generator = generator or torch.Generator().manual_seed(0)
    operator, jacobian = curvature.at(point), curvature.jacobian(point)
    goals = targets.gradients(jacobian)[:, :1]
    responses = point.task_gradients(jacobian) * point.item_weights()
    solved = solve_sweep(solver, operator, goals, values, generator)
    scores = torch.cat([responses.T @ s.value for s in solved], dim=1).cpu()
    products = solved[0].matvecs
    changes: list[float] = [NAN] * len(values)
    if truth is not None and truth.change is not None:
        removed = torch.stack([responses[:, sorted(set(r))].sum(dim=1) for r in truth.removals], dim=1)
        changes, more = _change_errors(solver, operator, removed, values, truth.change, generator)
        products += more
    lowest = float(extreme_eigenvalues(operator, generator).smallest)
    rows = []
    for i, (damping, solution) in enumerate(zip(values, solved, strict=True)):
        residual = float(solution.residual.max())
        facts = {"status": _words(solution), "change_error": changes[i]}
        if i:
            facts["stability"] = score_agreement(scores[:, i - 1].numpy(), scores[:, i].numpy()).spearman
        if truth is not None and truth.reliability.usable:
            picked = scores[[r[0] for r in truth.removals], i].numpy()
            agreement = score_agreement(picked, truth.loss_change.numpy())
            facts |= {"spearman": agreement.spearman, "slope": agreement.slope}
        rows.append(Damped(damping, lowest + damping, residual, **facts))
    return DampingSweep(tuple(rows), scores, products, "" if truth is None else truth.kind.words.name)


def _change_errors(
    solver: Solver,
    operator: LinearOperator,
    columns: Tensor,
    dampings: list[float],
    true: Tensor,
    generator: torch.Generator,
) -> tuple[list[float], int]:
    found: list[list[Tensor]] = [[] for _ in dampings]
    products = 0
    for block in columns.split(BLOCK, dim=1):
        solved = solve_sweep(solver, operator, block, dampings, generator)
        products += solved[0].matvecs
        for kept, solution in zip(found, solved, strict=True):
            kept.append(solution.value.cpu())
    errors = [change_agreement(torch.cat(kept, dim=1).numpy(), true.numpy()).relative_error for kept in found]
    return [median(e[moved(true.numpy())]) for e in errors], products


def _words(solution: Solution) -> str:
    worst = Status(int(solution.status.max()))
    return worst.name.lower().replace("_", " ") if worst.failed else ""

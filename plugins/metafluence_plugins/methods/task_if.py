"""task-IF: what removing whole tasks does to the meta-parameters ("Evaluating Data Influence in Meta Learning")."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import ClassVar

import torch
from torch import Tensor

from metafluence import (
    AttributionMethod,
    Context,
    Curvature,
    Hessian,
    Jacobian,
    LinearOperator,
    ParameterChange,
    Point,
    PreparedSolve,
    Removal,
    Scores,
    Solver,
    SolveReport,
    Targets,
)
from metafluence_plugins.curvatures.exact import ExactCurvature
from metafluence_plugins.solvers.cg import CG


@dataclass(frozen=True)
class TaskIF(AttributionMethod):
    """λ(after removal) − λ* ≈ (C + damping I)⁻¹ Σ_removed r, r the tasks' total gradients.

    All N tasks are scored with one solve per target. leave_out: drop the removed tasks' own curvature from C (a
    Newton step from λ* on the objective without them), at the cost of one solve per removal.
    """

    curvature: Curvature = ExactCurvature()
    solver: Solver = CG()
    damping: float = 0.0
    leave_out: bool = False

    edits: ClassVar[bool] = True

    def prepare(self, context: Context) -> Influence:
        return Influence(self, context)

    def scores(self, state: Influence, targets: Targets) -> Scores:
        goals = targets.gradients(state.jacobian)
        if self.leave_out:
            change = self.parameter_change(state, state.context.singles())
            return Scores(change.values.T @ goals, "task", self.units, change.solve, change.notes)
        solution = state.full.solve(goals, state.context.generator, state.context.strict)
        values = state.responses.T @ solution.value
        return Scores(values, "task", self.units, SolveReport.of(solution, state.full.matvecs), state.notes)

    def parameter_change(self, state: Influence, removals: Sequence[Removal]) -> ParameterChange:
        rhs = torch.stack([state.responses[:, list(r)].sum(dim=1) for r in removals], dim=1)
        if not self.leave_out:
            solution = state.full.solve(rhs, state.context.generator, state.context.strict)
            report = SolveReport.of(solution, state.full.matvecs)
            return ParameterChange(solution.value, tuple(removals), report, state.notes)
        whole = isinstance(state.operator, Hessian) and state.operator.form == "exact"
        if whole and list(removals) == state.context.singles():
            operator = LeaveOneOut(state.context.point, state.operator, state.jacobian)
            prepared = PreparedSolve(self.solver, operator, self.damping, state.context.generator)
            batch = rhs.T.unsqueeze(-1)
            solution = prepared.solve(batch, state.context.generator, state.context.strict)
            # A product of this batch is one column for every task.
            report = SolveReport.of(solution, prepared.matvecs)
            report = replace(report, products=report.products * len(removals))
            return ParameterChange(solution.value.squeeze(-1).T, tuple(removals), report, state.notes)
        values, reports = [], []
        for removal, column in zip(removals, rhs.T, strict=True):
            prepared = state.without(removal)
            solution = prepared.solve(column.unsqueeze(1), state.context.generator, state.context.strict)
            values.append(solution.value)
            reports.append(SolveReport.of(solution, prepared.matvecs))
        return ParameterChange(torch.cat(values, dim=1), tuple(removals), _merge(reports), state.notes)


class Influence:
    """A prepared task-IF: the operator, its factorisation and the responses of all tasks."""

    def __init__(self, method: TaskIF, context: Context) -> None:
        self._method = method
        self.context = context
        self.jacobian: Jacobian = method.curvature.jacobian(context.point)
        self.operator = method.curvature.at(context.point)
        self.notes = (
            ("dθ/dλ = I was assumed (first-order convention): the outer loss has no explicit λ.",)
            if self.jacobian == "identity"
            else ()
        )

    @cached_property
    def full(self) -> PreparedSolve:
        return PreparedSolve(self._method.solver, self.operator, self._method.damping, self.context.generator)

    @cached_property
    def responses(self) -> Tensor:
        """r of every task, [P, N]."""
        return self.context.point.task_gradients(self.jacobian)

    def without(self, removal: Removal) -> PreparedSolve:
        """The solve at the same λ*, on the objective without the removed tasks."""
        point = self.context.point
        reduced = self.context.problem.at(point.meta, point.weights.without("task", removal), point.adapted)
        return PreparedSolve(self._method.solver, self._method.curvature.at(reduced), self._method.damping)


class LeaveOneOut(LinearOperator):
    """A batch of N operators [P, P]: the full one without the i-th task's own curvature."""

    def __init__(self, point: Point, full: LinearOperator, jacobian: Jacobian) -> None:
        self._point, self._full = point, full
        self._jacobian: Jacobian = jacobian
        self.size, self.dtype, self.device = full.size, full.dtype, full.device
        self.batch_shape = (len(point.problem.tasks),)

    def matmat(self, columns: Tensor) -> Tensor:
        n, size, k = columns.shape
        flat = columns.movedim(0, 1).reshape(size, n * k)
        full = self._full.matmat(flat).reshape(size, n, k)
        own = torch.stack(
            [self._point.product_each(columns[:, :, j].T, self._jacobian) for j in range(k)],
            dim=-1,
        )
        return (full - own).movedim(1, 0)

    def dense(self) -> Tensor:
        identity = torch.eye(self.size, dtype=self.dtype, device=self.device)
        own = torch.stack(
            [self._point.product_each(e.unsqueeze(1).expand(-1, *self.batch_shape), self._jacobian) for e in identity],
            dim=-1,
        )
        return self._full.dense() - own.movedim(1, 0)


def _merge(reports: list[SolveReport]) -> SolveReport:
    return SolveReport(
        sum(r.products for r in reports),
        max(r.residual for r in reports),
        all(r.converged for r in reports),
        next((r.complaint for r in reports if r.complaint), ""),
    )

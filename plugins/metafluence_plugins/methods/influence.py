"""Influence functions at every level: one formula, as every item is a weight."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import ClassVar, Literal

import torch
from torch import Tensor

from metafluence import (
    LEVELS,
    AttributionMethod,
    Context,
    Curvature,
    Hessian,
    InputError,
    Jacobian,
    Level,
    LinearOperator,
    NonNegative,
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
from metafluence_plugins.methods.krylov_hessian import KrylovHessian, KrylovInverse
from metafluence_plugins.solvers.cg import CG
from metafluence_plugins.solvers.minres import Minres

# Of `leave_out: rescaled`: products for the Krylov space, and the relative residual of what is solved in it.
KRYLOV_STEPS, RESCALED_RTOL = 30, 1e-3


@dataclass(frozen=True)
class InfluenceFunction(AttributionMethod):
    """λ(after removal) − λ* ≈ (C + damping I)⁻¹ Σ_removed r, r the items' responses D_λ ∂F/∂ω.

    All items are scored with one solve per target, and one derivative along it that costs about a product. leave_out:
    a Newton step from λ* on the objective without the removed items, whose own curvature is then not in C; it costs
    one solve per removal, and so one per item for scores. `edits`: of predicted parameters alone, as of many items
    removed together, of whom first order says least; scores are as without. `rescaled`: edits likewise, and scores of
    tasks with the item's own curvature left out, too, without a solve per item: the full inverse is exact for the
    targets, and inside the correction it is that of a Krylov space of the targets' mean (curvature `exact` only).
    inner_solver: of the tasks' own Hessians; the problem's if not given; learners that unroll have none, so that it is
    left out, with a note. judge: measure the residual of every target's solve, which costs one product each; a solver
    like ek-fac needs none itself.
    """

    curvature: Curvature = ExactCurvature()
    solver: Solver = CG()
    damping: NonNegative = 0.0
    leave_out: bool | Literal["edits", "rescaled"] = False
    inner_solver: Solver | None = None
    judge: bool = True

    levels: ClassVar[frozenset[Level]] = frozenset(LEVELS)
    edits: ClassVar[bool] = True
    adds: ClassVar[bool] = True

    @property
    def additive(self) -> bool:
        return not self.leave_out

    def prepare(self, context: Context) -> Influence:
        if context.candidates is not None and self.leave_out:
            raise InputError("Candidates are no part of the fit that could be left out. Set leave_out: false.")
        if self.leave_out == "rescaled" and not (
            context.level == "task" and isinstance(self.curvature, ExactCurvature)
        ):
            raise InputError(
                f"leave_out: rescaled scores tasks with the curvature exact; level is {context.level!r} and the "
                f"curvature {type(self.curvature).__name__}. Set leave_out to true or edits."
            )
        if self.leave_out == "rescaled" and not context.problem.l2 + self.damping > 0:
            raise InputError(
                "leave_out: rescaled needs l2 or a damping above zero, for directions that it does not see."
            )
        old = context.point
        if self.inner_solver is not None and not old.problem.learner.unrolls:
            problem = old.problem.solving_with(self.inner_solver)
            context = replace(context, point=problem.at(old.meta, old.weights, old.adapted))
            if context.candidates is not None:
                context = context.adding(context.candidates.problem.tasks)
        return Influence(self, context)

    def scores(self, state: Influence, targets: Targets) -> Scores:
        if self.inner_solver is not None and not targets.problem.learner.unrolls:
            targets = targets.solving_with(self.inner_solver)
        context, goals = state.context, targets.gradients(state.jacobian)
        if self.leave_out is True:
            change = self.parameter_change(state, context.singles())
            return Scores(change.values.T @ goals, context.level, self.units, change.solve, change.notes)
        solution = state.full.solve(goals, context.generator, context.strict, self.judge)
        values = context.scored.removal_slopes(solution.value, context.level, state.jacobian)
        report = SolveReport.of(solution, state.full.matvecs)
        if self.leave_out == "rescaled":
            correction, products = self._correction(state, goals, solution.value)
            values, report = values + correction, replace(report, products=report.products + products)
        return Scores(values, context.level, self.units, report, state.notes)

    def _correction(self, state: Influence, goals: Tensor, solved: Tensor) -> tuple[Tensor, int]:
        """(C_i A⁻¹ g)ᵀ (A − C_i)⁻¹ r_i [N, targets], A in the second factor as a Krylov space knows it; products."""
        point, generator = state.context.point, state.context.generator
        known = KrylovHessian(state.operator, goals.mean(dim=1, keepdim=True), KRYLOV_STEPS, point.problem.l2)
        solver = Minres(RESCALED_RTOL, preconditioner=KrylovInverse(known))
        reduced = LeaveOneOut(point, known, state.jacobian)
        responses = point.removed(state.context.singles(), "task", state.jacobian)
        left = PreparedSolve(solver, reduced, self.damping).solve(responses.T.unsqueeze(-1), generator, strict=False)
        own = [point.product_each(y.unsqueeze(1).expand_as(responses), state.jacobian) for y in solved.T]
        correction = torch.stack([(one * left.value.squeeze(-1).T).sum(dim=0) for one in own], dim=1)
        # A product with every task's own column is one pass over the tasks, as a product with A is.
        return correction, known.products + left.matvecs + len(own)

    def parameter_change(self, state: Influence, removals: Sequence[Removal]) -> ParameterChange:
        context = state.context
        if self.leave_out:
            return self._newton_steps(state, removals)
        rhs = context.scored.removed(removals, context.level, state.jacobian)
        solution = state.full.solve(rhs, context.generator, context.strict, self.judge)
        return ParameterChange(
            solution.value, tuple(removals), SolveReport.of(solution, state.full.matvecs), state.notes
        )

    def _newton_steps(self, state: Influence, removals: Sequence[Removal]) -> ParameterChange:
        context, values, reports = state.context, [], []
        whole = isinstance(state.operator, Hessian) and state.operator.form == "exact"
        if whole and context.level == "task" and list(removals) == context.singles():
            operator = LeaveOneOut(context.point, state.operator, state.jacobian)
            prepared = PreparedSolve(self.solver, operator, self.damping, context.generator)
            responses = context.point.removed(removals, "task", state.jacobian)
            solution = prepared.solve(responses.T.unsqueeze(-1), context.generator, context.strict)
            # A product of this batch is one column for every task.
            report = SolveReport.of(solution, prepared.matvecs)
            report = replace(report, products=report.products * len(removals))
            return ParameterChange(solution.value.squeeze(-1).T, tuple(removals), report, state.notes)
        full = context.point.partial_gradient(state.jacobian)
        for removal in removals:
            reduced = state.without(removal)
            rhs = (full - reduced.partial_gradient(state.jacobian)).unsqueeze(1)
            prepared = PreparedSolve(self.solver, self.curvature.at(reduced), self.damping)
            solution = prepared.solve(rhs, context.generator, context.strict)
            values.append(solution.value)
            reports.append(SolveReport.of(solution, prepared.matvecs))
        return ParameterChange(torch.cat(values, dim=1), tuple(removals), _merge(reports), state.notes)


class Influence:
    """A prepared influence function: the operator and its factorisation."""

    def __init__(self, method: InfluenceFunction, context: Context) -> None:
        self._method = method
        self.context = context
        self.jacobian: Jacobian = method.curvature.jacobian(context.point)
        self.operator = method.curvature.at(context.point)
        notes = []
        if self.jacobian == "identity":
            notes.append("dθ/dλ = I was assumed (first-order convention): the outer loss has no explicit λ.")
        learner = context.problem.learner
        if method.inner_solver is not None and learner.unrolls:
            name = type(learner).__name__
            notes.append(f"inner_solver was left out: {name} is differentiated through its own steps.")
        self.notes = tuple(notes)

    @cached_property
    def full(self) -> PreparedSolve:
        return PreparedSolve(self._method.solver, self.operator, self._method.damping, self.context.generator)

    def without(self, removal: Removal) -> Point:
        """The same λ* under the objective without the removed items."""
        point = self.context.point
        return point.problem.at(point.meta, point.weights.without(self.context.level, removal), point.adapted)


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
        own = torch.stack([self._point.product_each(columns[:, :, j].T, self._jacobian) for j in range(k)], dim=-1)
        return (full - own).movedim(1, 0)

    def cast(self, dtype: torch.dtype) -> LeaveOneOut:
        point = self._point.cast(dtype)
        return LeaveOneOut(point, point.hessian(self._jacobian), self._jacobian)

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

"""EKFAC-IF: classical influence with EK-FAC, as for a network that does not adapt; a baseline of the paper."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from metafluence import (
    AttributionMethod,
    BilevelProblem,
    Context,
    InputError,
    Level,
    NonNegative,
    ParameterChange,
    Removal,
    Scores,
    Targets,
)
from metafluence_plugins.curvatures.direct import DirectCurvature
from metafluence_plugins.methods.influence import Influence, InfluenceFunction
from metafluence_plugins.solvers.ek_fac import EKFAC


@dataclass(frozen=True)
class EKFACIF(AttributionMethod):
    """(G + (δ + damping) I)⁻¹ ∂_λ L_O, G the EK-FAC (Grosse et al. 2023) of the outer loss; θ_i(λ) is ignored.

    Where the outer loss depends on λ with θ held (a shared encoder), θ_i is held; where λ is the whole network (imaml),
    items and targets are seen at λ itself, before adaptation. fisher: see ek-fac. Support instances have no effect.
    judge: measure residuals, a product for each target, where EK-FAC itself takes none. unsupported: what becomes of
    parameters outside of Linear and Conv2d layers, see ek-fac.
    """

    fisher: Literal["exact", "sampled", "empirical"] = "exact"
    damping: NonNegative = 0.0
    judge: bool = True
    unsupported: Literal["refuse", "diagonal"] = "refuse"

    levels: ClassVar[frozenset[Level]] = frozenset({"task", "query", "class"})
    edits: ClassVar[bool] = True

    @property
    def additive(self) -> bool:
        return True

    def prepare(self, context: Context) -> Influence:
        point = context.point
        problem = _unadapted(point.problem)
        if problem is not point.problem:
            context = replace(context, point=problem.at(point.meta, point.weights))
        return self._influence.prepare(context)

    def scores(self, state: Influence, targets: Targets) -> Scores:
        same = _unadapted(targets.problem)
        if same is not targets.problem:
            targets = Targets(same, targets.problem.tasks, targets.point.meta, targets.mean)
        return self._influence.scores(state, targets)

    def parameter_change(self, state: Influence, removals: Sequence[Removal]) -> ParameterChange:
        return self._influence.parameter_change(state, removals)

    @property
    def _influence(self) -> InfluenceFunction:
        solver = EKFAC(self.fisher, unsupported=self.unsupported)
        return InfluenceFunction(DirectCurvature("gauss-newton"), solver, self.damping, judge=self.judge)


def _unadapted(problem: BilevelProblem) -> BilevelProblem:
    learner = problem.learner.unadapted()
    if learner is problem.learner:
        return problem
    try:
        return BilevelProblem(learner, problem.tasks, problem.l2, problem.inner_solver, problem.memory_gib)
    except InputError as error:
        raise InputError(f"ekfac-if sees {type(problem.learner).__name__} without adaptation: {error}") from error

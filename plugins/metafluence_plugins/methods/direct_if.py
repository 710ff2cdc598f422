"""Direct-IF: classical influence that ignores adaptation; the paper's negative example."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from metafluence import (
    AttributionMethod,
    Context,
    Level,
    NonNegative,
    ParameterChange,
    Removal,
    Scores,
    Solver,
    Targets,
)
from metafluence_plugins.curvatures.direct import DirectCurvature
from metafluence_plugins.methods.influence import Influence, InfluenceFunction
from metafluence_plugins.solvers.cg import CG


@dataclass(frozen=True)
class DirectIF(AttributionMethod):
    """(δI + ∂²_λλ L_O + damping I)⁻¹ ∂_λ L_O with θ held; see the curvature `direct` where λ is not explicit.

    Support instances act through adaptation alone, so level support is not supported.
    """

    solver: Solver = CG()
    damping: NonNegative = 0.0

    levels: ClassVar[frozenset[Level]] = frozenset({"task", "query", "class"})
    edits: ClassVar[bool] = True
    adds: ClassVar[bool] = True

    @property
    def additive(self) -> bool:
        return True

    def prepare(self, context: Context) -> Influence:
        return self._influence.prepare(context)

    def scores(self, state: Influence, targets: Targets) -> Scores:
        return self._influence.scores(state, targets)

    def parameter_change(self, state: Influence, removals: Sequence[Removal]) -> ParameterChange:
        return self._influence.parameter_change(state, removals)

    @property
    def _influence(self) -> InfluenceFunction:
        return InfluenceFunction(DirectCurvature(), self.solver, self.damping)

"""run-influence: what an item did to the end of a recorded meta-training run (MAGIC, Engstrom et al. 2025)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from metafluence import (
    Context,
    Level,
    ParameterChange,
    Removal,
    Scores,
    SolveReport,
    Targets,
    TrainingRun,
    check_run,
    estimate_sweep,
    run_adjoint,
    run_tangent,
)
from metafluence_plugins.methods.run_method import RunMethod, left_out


@dataclass(frozen=True)
class RunTrace:
    """A run whose end is the context's λ, and the context."""

    run: TrainingRun
    context: Context


@dataclass(frozen=True)
class RunInfluence(RunMethod):
    """The exact derivative of a run's end by the weights of its items (MAGIC, REPLAY; Engstrom et al. 2025).

    It answers what the very same run, with its batches, rates and start, would have ended in without the item. It needs
    no minimum, only a recorded run; how far removal, a change of weight by 1, is predicted depends on how smooth the
    run is (see `run_trust`). All items are scored against all targets in one sweep backwards; parameters are predicted
    by one pass forwards for all removals. The context's observer is told what the sweep will take and how far it has
    come; with a folder in the context an interrupted sweep goes on.
    """

    differentiates_run: ClassVar[bool] = True

    def prepare(self, context: Context) -> RunTrace:
        return RunTrace(check_run(context.run, context.point), context)

    def scores(self, state: RunTrace, targets: Targets) -> Scores:
        level = state.context.level
        return self.scores_by_level(state.context, targets, (level,))[level]

    def scores_by_level(self, context: Context, targets: Targets, levels: Sequence[Level]) -> dict[Level, Scores]:
        run, observer = check_run(context.run, context.point), context.observer
        goals = targets.at(run.final).gradients()
        observer.stage("sweeping back through the run", run.steps)
        said = f"in all {estimate_sweep(run, targets.count, levels)}"
        observer.step(0, run.steps, said)
        found = run_adjoint(run, goals, levels, lambda done, total: observer.step(done, total, said), context.folder)
        observer.done()
        about = SolveReport(run.steps), left_out(run)
        return {
            level: Scores(-slopes * run.weights.of(level).unsqueeze(1), level, self.units, *about)
            for level, slopes in found.by_weight.items()
        }

    def parameter_change(self, state: RunTrace, removals: Sequence[Removal]) -> ParameterChange:
        run = state.run
        values = run_tangent(run, removals, state.context.level)
        return ParameterChange(values, tuple(removals), SolveReport(run.steps), left_out(run))

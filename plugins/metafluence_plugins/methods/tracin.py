"""TracIn: what an item's own steps of meta-training did to the targets (Pruthi et al. 2020)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

from torch import Tensor

from metafluence import (
    LEVELS,
    AttributionMethod,
    Context,
    InputError,
    Jacobian,
    Level,
    ParameterChange,
    Point,
    Removal,
    Scores,
    Targets,
    TrainingRun,
    Units,
    Weights,
    check_removals,
    check_run,
)
from metafluence_plugins.curvatures.direct import DirectCurvature


class Taken(NamedTuple):
    """Where steps were taken, and their rate; tasks: the numbers of the point's tasks, None for all."""

    point: Point
    rate: float
    tasks: Tensor | None = None


@dataclass(frozen=True)
class Trace:
    """Steps of meta-training with the weights of the items; `taken` goes through the steps each time."""

    context: Context
    weights: Weights
    taken: Callable[[], Iterator[Taken]]
    jacobian: Jacobian


@dataclass(frozen=True)
class TracIn(AttributionMethod):
    """Σ_c rate_c r_i(λ_c)ᵀ g_j(λ_c) over checkpoints c, r and g total gradients (or partial ones, with θ held), λ_c
    where the checkpoint's step was taken from.

    As an edit the item's own steps are undone: Σ_c rate_c r_i(λ_c). Where every step has its checkpoint and takes all
    tasks, that is all that the item itself did to λ under plain gradient descent, and for one step what descent without
    it gives; that later steps would then start elsewhere is not in it. With minibatches it is what the item did on
    average over their draws; with other optimisers the size means nothing.

    along: `checkpoints`, or `run`: every step of a recorded run, at the tasks of its own batch and its rate, which is
    what checkpoints stand for. It costs a pass over each batch.
    """

    gradients: Literal["total", "partial"] = "total"
    along: Literal["checkpoints", "run"] = "checkpoints"

    levels: ClassVar[frozenset[Level]] = frozenset(LEVELS)
    units: ClassVar[Units] = "rank_only"
    edits: ClassVar[bool] = True

    @property
    def additive(self) -> bool:
        return True

    @property
    def needs_checkpoints(self) -> bool:
        return self.along == "checkpoints"

    @property
    def needs_run(self) -> bool:
        return self.along == "run"

    def prepare(self, context: Context) -> Trace:
        jacobian: Jacobian = "total"
        if self.gradients == "partial":
            if context.level == "support":
                raise InputError("Partial gradients do not see support instances. Use tracin with gradients: total.")
            jacobian = DirectCurvature().jacobian(context.point)
        if self.along == "run":
            run = check_run(context.run, context.point)
            return Trace(context, run.weights, lambda: _own_steps(run), jacobian)
        problem, weights = context.problem, context.point.weights
        points = [problem.at(c.taken_at, weights, context.point.adapted) for c in context.checkpoints]
        steps = [0, *(c.step for c in context.checkpoints)]
        rates = [
            c.learning_rate * (now - before)
            for c, before, now in zip(context.checkpoints, steps, steps[1:], strict=False)
        ]
        taken = [Taken(point, rate) for point, rate in zip(points, rates, strict=True)]
        return Trace(context, weights, lambda: iter(taken), jacobian)

    def scores(self, state: Trace, targets: Targets) -> Scores:
        weights: Tensor = getattr(state.weights, state.context.level)
        total = weights.new_zeros(weights.numel(), targets.count)
        for point, rate, tasks in state.taken():
            goals = targets.at(point.meta).gradients(state.jacobian)
            slopes = rate * point.removal_slopes(goals, state.context.level, state.jacobian)
            total = total + slopes if tasks is None else _added(total, state, tasks, slopes)
        return Scores(total, state.context.level, self.units)

    def parameter_change(self, state: Trace, removals: Sequence[Removal]) -> ParameterChange:
        removals = check_removals(removals, getattr(state.weights, state.context.level).numel(), state.context.level)
        total: Tensor | float = 0.0
        for point, rate, tasks in state.taken():
            local = removals if tasks is None else state.weights.within(state.context.level, tasks, removals)
            total = total + rate * point.removed(local, state.context.level, state.jacobian)
        assert isinstance(total, Tensor)
        return ParameterChange(total, tuple(removals))


def _own_steps(run: TrainingRun) -> Iterator[Taken]:
    """Every step at the tasks of its batch, whose gradients it took the mean of."""
    for segment in run.segments():
        for step in run.recorded(*segment):
            tasks = step.batch
            point = run.problem.over(run.problem.tasks[tasks]).at(step.state.meta, run.weights[tasks])
            yield Taken(point, step.rate / len(tasks), tasks)


def _added(total: Tensor, state: Trace, tasks: Tensor, slopes: Tensor) -> Tensor:
    return total.index_add(0, state.weights.items_of(state.context.level, tasks).to(total.device), slopes)

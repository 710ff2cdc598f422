"""TracIn: what an item's own steps of meta-training did to the targets (Pruthi et al. 2020)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

import torch
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
    """Where steps were taken, and their rate: one for all parameters, or of each, [P, 1]. tasks [b]: their numbers
    among the point's.
    """

    point: Point
    rate: Tensor | float
    tasks: Tensor


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
    needs_minimum: ClassVar[bool] = False

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
        points = [context.point.near(c.taken_at) for c in context.checkpoints]
        steps = [0, *(c.step for c in context.checkpoints)]
        rates = [
            c.learning_rate * (now - before)
            for c, before, now in zip(context.checkpoints, steps, steps[1:], strict=False)
        ]
        every = torch.arange(len(context.point))
        taken = [Taken(point, rate, every) for point, rate in zip(points, rates, strict=True)]
        return Trace(context, context.point.weights, lambda: iter(taken), jacobian)

    def scores(self, state: Trace, targets: Targets) -> Scores:
        total = state.weights.task.new_zeros(state.context.items, targets.count)
        for point, rate, tasks in state.taken():
            goals = targets.at(point.meta).gradients(state.jacobian)
            slopes = point.removal_slopes(rate * goals, state.context.level, state.jacobian)
            total.index_add_(0, state.weights.items_of(state.context.level, tasks).to(total.device), slopes)
        return Scores(total, state.context.level, self.units)

    def parameter_change(self, state: Trace, removals: Sequence[Removal]) -> ParameterChange:
        removals = check_removals(removals, state.context.items, state.context.level)
        total = state.weights.task.new_zeros(state.context.problem.size, len(removals))
        for point, rate, tasks in state.taken():
            local = state.weights.within(state.context.level, tasks, removals)
            if any(local):
                total += rate * point.removed(local, state.context.level, state.jacobian)
        return ParameterChange(total, tuple(removals))


def _own_steps(run: TrainingRun) -> Iterator[Taken]:
    """Every step at the tasks of its batch, whose gradients it took the mean of."""
    for segment in run.segments():
        for step in run.recorded(*segment):
            rates = run.rates_of(step).unsqueeze(1)
            yield Taken(run.point_of(step), rates / len(step.batch), step.batch)

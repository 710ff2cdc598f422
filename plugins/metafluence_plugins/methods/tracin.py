"""TracIn: what an item's own steps of meta-training did to the targets (Pruthi et al. 2020)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

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
    Units,
)
from metafluence_plugins.curvatures.direct import DirectCurvature


@dataclass(frozen=True)
class Trace:
    """The items' level, and where every checkpoint's step was taken, with its rate: the learning rate times the steps
    that the checkpoint stands for.
    """

    level: Level
    points: tuple[Point, ...]
    rates: tuple[float, ...]
    jacobian: Jacobian


@dataclass(frozen=True)
class TracIn(AttributionMethod):
    """Σ_c rate_c r_i(λ_c)ᵀ g_j(λ_c) over checkpoints c, r and g total gradients (or partial ones, with θ held), λ_c
    where the checkpoint's step was taken from.

    As an edit the item's own steps are undone: Σ_c rate_c r_i(λ_c). Where every step has its checkpoint and takes all
    tasks, that is all that the item itself did to λ under plain gradient descent, and for one step what descent without
    it gives; that later steps would then start elsewhere is not in it. With minibatches it is what the item did on
    average over their draws; with other optimisers the size means nothing.
    """

    gradients: Literal["total", "partial"] = "total"

    levels: ClassVar[frozenset[Level]] = frozenset(LEVELS)
    units: ClassVar[Units] = "rank_only"
    edits: ClassVar[bool] = True

    @property
    def additive(self) -> bool:
        return True

    @property
    def needs_checkpoints(self) -> bool:
        return True

    def prepare(self, context: Context) -> Trace:
        jacobian: Jacobian = "total"
        if self.gradients == "partial":
            if context.level == "support":
                raise InputError("Partial gradients do not see support instances. Use tracin with gradients: total.")
            jacobian = DirectCurvature().jacobian(context.point)
        problem, weights = context.problem, context.point.weights
        points = tuple(problem.at(c.taken_at, weights, context.point.adapted) for c in context.checkpoints)
        steps = [0, *(c.step for c in context.checkpoints)]
        rates = tuple(
            c.learning_rate * (now - before)
            for c, before, now in zip(context.checkpoints, steps, steps[1:], strict=False)
        )
        return Trace(context.level, points, rates, jacobian)

    def scores(self, state: Trace, targets: Targets) -> Scores:
        total: Tensor | float = 0.0
        for point, rate in zip(state.points, state.rates, strict=True):
            goals = targets.at(point.meta).gradients(state.jacobian)
            total = total + rate * point.removal_slopes(goals, state.level, state.jacobian)
        assert isinstance(total, Tensor)
        return Scores(total, state.level, self.units)

    def parameter_change(self, state: Trace, removals: Sequence[Removal]) -> ParameterChange:
        total = torch.stack(
            [
                rate * point.removed(removals, state.level, state.jacobian)
                for point, rate in zip(state.points, state.rates, strict=True)
            ]
        ).sum(dim=0)
        return ParameterChange(total, tuple(removals))

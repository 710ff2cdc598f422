"""Gradient ascent on what is removed: the plainest way to unlearn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from metafluence import (
    LEVELS,
    AttributionMethod,
    Context,
    Count,
    Level,
    ParameterChange,
    Point,
    Positive,
    Removal,
    Scores,
    Targets,
    Units,
    Weights,
)


@dataclass(frozen=True)
class GradAscent(AttributionMethod):
    """λ ← λ + learning_rate · D_λ (the removed items' part of the objective), a few times, from λ*.

    A score is the change of the target's loss to first order along the item's own edit, as for any other edit.
    """

    steps: Count = 3
    learning_rate: Positive = 0.05

    levels: ClassVar[frozenset[Level]] = frozenset(LEVELS)
    units: ClassVar[Units] = "rank_only"
    edits: ClassVar[bool] = True

    def prepare(self, context: Context) -> Context:
        return context

    def scores(self, state: Context, targets: Targets) -> Scores:
        change = self.parameter_change(state, state.singles())
        return Scores(change.values.T @ targets.gradients(), state.level, self.units)

    def parameter_change(self, state: Context, removals: Sequence[Removal]) -> ParameterChange:
        start = state.point
        first = start.removed(removals, state.level)  # the first step's gradients, for all removals at once
        moved = [self._ascend(state, removal, own) for removal, own in zip(removals, first.T, strict=True)]
        return ParameterChange(torch.stack(moved, dim=1) - start.meta.unsqueeze(1), tuple(removals))

    def _ascend(self, context: Context, removal: Removal, first: Tensor) -> Tensor:
        tasks = context.point.weights.tasks_of(context.level, removal)
        (own,) = context.point.weights.within(context.level, tasks, [removal])
        part: Point = context.point.part(tasks, 1.0)
        weights: Weights = part.weights
        meta = context.point.meta + self.learning_rate * first
        for _ in range(self.steps - 1):
            part = part.problem.at(meta, weights, part.adapted)
            meta = meta + self.learning_rate * part.removed([own], context.level)[:, 0]
        return meta

"""The plainest baseline: a task's own loss."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from metafluence import AttributionMethod, Context, Scores, Targets, Units


@dataclass(frozen=True)
class LossScore(AttributionMethod):
    """Minus the outer loss of the task at λ*: a badly fitted task is taken to be harmful, for any target."""

    units: ClassVar[Units] = "rank_only"

    def prepare(self, context: Context) -> Context:
        return context

    def scores(self, state: Context, targets: Targets) -> Scores:
        values = -state.point.task_losses.unsqueeze(1).expand(-1, len(targets.losses()))
        return Scores(values, "task", self.units)

"""The plainest baseline: an item's own loss."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from metafluence import LEVELS, AttributionMethod, Context, Level, Scores, Targets, Units


@dataclass(frozen=True)
class LossScore(AttributionMethod):
    """Minus the item's loss after adaptation at λ*: a badly fitted item is taken to be harmful, for any target."""

    levels: ClassVar[frozenset[Level]] = frozenset(LEVELS)
    units: ClassVar[Units] = "rank_only"
    needs_minimum: ClassVar[bool] = False
    adds: ClassVar[bool] = True

    def prepare(self, context: Context) -> Context:
        return context

    def scores(self, state: Context, targets: Targets) -> Scores:
        values = -state.scored.item_losses(state.level).unsqueeze(1).expand(-1, len(targets.losses()))
        return Scores(values, state.level, self.units)

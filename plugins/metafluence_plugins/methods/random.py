"""Random scores: what a method must beat."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from metafluence import LEVELS, AttributionMethod, Context, Level, Scores, Targets, Units


@dataclass(frozen=True)
class RandomScore(AttributionMethod):
    """Standard normal scores from the study's generator, the same for all targets."""

    levels: ClassVar[frozenset[Level]] = frozenset(LEVELS)
    units: ClassVar[Units] = "rank_only"
    needs_minimum: ClassVar[bool] = False
    adds: ClassVar[bool] = True

    def prepare(self, context: Context) -> Context:
        return context

    def scores(self, state: Context, targets: Targets) -> Scores:
        tasks, generator = state.problem.tasks, state.generator
        drawn = torch.randn(state.items, 1, generator=generator, device=generator.device, dtype=tasks.dtype)
        return Scores(drawn.to(tasks.device).expand(-1, len(targets.losses())), state.level, self.units)

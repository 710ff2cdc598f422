"""Similarity of an item's total gradient with the target's: influence with the identity for a Hessian."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch

from metafluence import LEVELS, AttributionMethod, Context, Level, Scores, Targets, Units


@dataclass(frozen=True)
class GradientSimilarity(AttributionMethod):
    """r_iᵀ g_j, or its cosine. An item whose gradient points the target's way helps it, so more is better."""

    kind: Literal["dot", "cosine"] = "dot"

    levels: ClassVar[frozenset[Level]] = frozenset(LEVELS)
    units: ClassVar[Units] = "rank_only"
    needs_minimum: ClassVar[bool] = False
    adds: ClassVar[bool] = True

    @property
    def additive(self) -> bool:
        return self.kind == "dot"

    def prepare(self, context: Context) -> Context:
        return context

    def scores(self, state: Context, targets: Targets) -> Scores:
        goals = targets.gradients()
        if self.kind == "dot":
            return Scores(state.scored.removal_slopes(goals, state.level), state.level, self.units)
        own = state.scored.responses(state.level) * state.scored.item_weights(state.level)
        own = torch.nn.functional.normalize(own, dim=0)
        return Scores(own.T @ torch.nn.functional.normalize(goals, dim=0), state.level, self.units)

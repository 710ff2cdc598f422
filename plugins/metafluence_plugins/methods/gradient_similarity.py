"""Similarity of a task's total gradient with the target's: influence with the identity for a Hessian."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch

from metafluence import AttributionMethod, Context, Scores, Targets, Units


@dataclass(frozen=True)
class GradientSimilarity(AttributionMethod):
    """r_iᵀ g_j, or its cosine. A task whose gradient points the target's way helps it, so more is better."""

    kind: Literal["dot", "cosine"] = "dot"

    units: ClassVar[Units] = "rank_only"

    def prepare(self, context: Context) -> Context:
        return context

    def scores(self, state: Context, targets: Targets) -> Scores:
        own, goals = state.point.task_gradients(), targets.gradients()
        if self.kind == "cosine":
            own = torch.nn.functional.normalize(own, dim=0)
            goals = torch.nn.functional.normalize(goals, dim=0)
        return Scores(own.T @ goals, "task", self.units)

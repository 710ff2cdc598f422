"""Exact retraining: the ground truth, as a method like any other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch

from metafluence import (
    LEVELS,
    AttributionMethod,
    Context,
    InputError,
    Level,
    ParameterChange,
    Removal,
    RetrainBank,
    Scores,
    SolveReport,
    Targets,
)


@dataclass(frozen=True)
class Retrain(AttributionMethod):
    """Fit again without each removal, through the study's retrain bank, and look."""

    levels: ClassVar[frozenset[Level]] = frozenset(LEVELS)
    edits: ClassVar[bool] = True
    retrains: ClassVar[bool] = True

    def prepare(self, context: Context) -> tuple[Context, RetrainBank]:
        if context.bank is None:
            raise InputError("retrain needs a retrain bank. Pass Context(bank=RetrainBank(...)).")
        if context.bank.weights.fingerprint() != context.point.weights.fingerprint():
            raise InputError(
                "The retrain bank fits with other weights than the context's point has, so its retrainings answer "
                "another question. Give both the same: RetrainBank(..., weights=point.weights)."
            )
        return context, context.bank

    def scores(self, state: tuple[Context, RetrainBank], targets: Targets) -> Scores:
        context, bank = state
        found = bank.leave_out(context.singles(), context.level)
        before = targets.losses()
        values = torch.stack([targets.losses(m) - before for m in found.meta.T])
        report = SolveReport(products=int(found.products.sum()) + found.shared_products)
        return Scores(values, context.level, self.units, report, seconds=found.cost())

    def parameter_change(self, state: tuple[Context, RetrainBank], removals: Sequence[Removal]) -> ParameterChange:
        context, bank = state
        change = bank.leave_out(removals, context.level).meta - context.point.meta.unsqueeze(1)
        return ParameterChange(change, tuple(removals))

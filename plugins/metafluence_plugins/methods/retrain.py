"""Exact retraining: the ground truth, as a method like any other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch

from metafluence import (
    AttributionMethod,
    Context,
    InputError,
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

    edits: ClassVar[bool] = True

    def prepare(self, context: Context) -> tuple[Context, RetrainBank]:
        if context.bank is None:
            raise InputError("retrain needs a retrain bank. Pass Context(bank=RetrainBank(...)).")
        return context, context.bank

    def scores(self, state: tuple[Context, RetrainBank], targets: Targets) -> Scores:
        context, bank = state
        found = bank.leave_out(context.singles())
        before = targets.losses()
        values = torch.stack([targets.losses(m) - before for m in found.meta.T])
        report = SolveReport(products=int(found.products.sum()))
        return Scores(values, "task", self.units, report, seconds=float(found.seconds.sum()))

    def parameter_change(self, state: tuple[Context, RetrainBank], removals: Sequence[Removal]) -> ParameterChange:
        context, bank = state
        return ParameterChange(bank.leave_out(removals).meta - context.point.meta.unsqueeze(1), tuple(removals))

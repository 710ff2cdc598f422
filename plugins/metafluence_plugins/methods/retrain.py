"""Exact retraining: the ground truth, as a method like any other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch

from metafluence import (
    LEVELS,
    Added,
    AttributionMethod,
    Context,
    ConvergenceError,
    InputError,
    Level,
    ParameterChange,
    Removal,
    RetrainBank,
    Scores,
    SolveReport,
    Targets,
    added,
)


@dataclass(frozen=True)
class Retrain(AttributionMethod):
    """Fit again without each removal, through the study's retrain bank, and look."""

    levels: ClassVar[frozenset[Level]] = frozenset(LEVELS)
    edits: ClassVar[bool] = True
    retrains: ClassVar[bool] = True
    needs_minimum: ClassVar[bool] = False
    adds: ClassVar[bool] = True

    def prepare(self, context: Context) -> Context:
        if _bank(context).weights.fingerprint() != context.point.weights.fingerprint():
            raise InputError(
                "The retrain bank fits with other weights than the context's point has, so its retrainings answer "
                "another question. Give both the same: RetrainBank(..., weights=point.weights)."
            )
        return context

    def scores(self, state: Context, targets: Targets) -> Scores:
        if state.candidates is not None:
            fits = _added(state)
            report = SolveReport(products=int(fits.with_items.products.sum()))
            return Scores(fits.loss_change(targets), state.level, self.units, report)
        found = _bank(state).leave_out(state.singles(), state.level)
        before = targets.losses()
        values = torch.stack([targets.losses(m) - before for m in found.meta.T])
        report = SolveReport(products=int(found.products.sum()) + found.shared_products)
        return Scores(values, state.level, self.units, report, seconds=found.cost())

    def parameter_change(self, state: Context, removals: Sequence[Removal]) -> ParameterChange:
        if state.candidates is not None:
            return ParameterChange(_added(state, removals).change, tuple(removals))
        change = _bank(state).leave_out(removals, state.level).meta - state.point.meta.unsqueeze(1)
        return ParameterChange(change, tuple(removals))


def _added(context: Context, removals: Sequence[Removal] | None = None) -> Added:
    found = added(context, removals)
    if found.complaint:
        raise ConvergenceError(found.complaint)
    return found


def _bank(context: Context) -> RetrainBank:
    if context.bank is None:
        raise InputError(
            "retrain needs a retrain bank. Give the study a truth, or pass Context(bank=RetrainBank(...))."
        )
    return context.bank

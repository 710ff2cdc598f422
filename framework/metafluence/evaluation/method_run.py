"""One run of a study: one method with one solver, compared with everything that is known."""

from __future__ import annotations

import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from metafluence.attribution import AttributionMethod, Scores
from metafluence.errors import MetafluenceError, StoreError, in_words, out_of_memory
from metafluence.evaluation.answer import answer
from metafluence.evaluation.evaluation import Evaluation, Retests, TestQuality
from metafluence.evaluation.extremes import changes_without, ends, lowest
from metafluence.evaluation.measured import Measured
from metafluence.evaluation.metric import Metric
from metafluence.evaluation.row import NAN, RemovalCurve, Row, Run, run_name
from metafluence.runtime import settle
from metafluence.tasks import Removal


def execute(
    evaluation: Evaluation, method: AttributionMethod, label: str, solver: str, metrics: Mapping[str, Metric]
) -> Run:
    """Run one method and measure it. Any exception becomes a failed row with its reason; the other methods go on."""
    told = ""
    try:
        return _execute(evaluation, method, label, solver, metrics)
    except StoreError:  # every other run would fail of it too
        raise
    except (Exception, SystemExit) as error:  # a component that calls sys.exit must not end the study
        reason = str(error)
        if not isinstance(error, MetafluenceError):
            told = traceback.format_exc()
            raised = in_words(error) if out_of_memory(error) else f"The method raised {in_words(error)}."
            reason = f"{raised} The traceback is in the store's `failures`."
        return failed_run(evaluation, method, label, solver, reason, told)


def failed_run(
    evaluation: Evaluation, method: AttributionMethod, label: str, solver: str, reason: str, told: str = ""
) -> Run:
    """A run that gave nothing but its reason; told: the traceback, if there is one to keep."""
    row = Row(
        method=label, solver=solver, level=evaluation.level, retrains=method.retrains, status="failed", reason=reason
    )
    return Run(row=row, traceback=told)


def _execute(
    evaluation: Evaluation, method: AttributionMethod, label: str, solver: str, metrics: Mapping[str, Metric]
) -> Run:
    found = answer(evaluation, method)
    scored, scores = found.scores, found.scores.values[:, 0].cpu()
    worst = [lowest(scores, count, evaluation.seen) for count in evaluation.remove]
    edited = _edit(evaluation, method, found.states, worst)
    retrained = evaluation.retrained(worst)
    curve = _curve(edited, retrained)
    measured = Measured(
        evaluation, method, scores.clone(), name=run_name(label, solver), units=scored.units, curve=curve,
        states=found.states,
    )  # fmt: skip
    changes = _Changes() if evaluation.truth is None else _changes(measured, scored)
    numbers, failed = _numbers(metrics, measured)
    notes = [*scored.notes, scored.solve.complaint]
    if edited.complaint:
        notes.append(f"Without the items of lowest score no parameters were predicted: {edited.complaint}")
    if retrained.complaint:
        notes.append(f"Without the items of lowest score: {retrained.complaint}")
    row = Row(
        method=label,
        solver=solver,
        level=evaluation.level,
        retrains=method.retrains,
        units=scored.units,
        damping=getattr(method, "damping", NAN),
        seconds=found.seconds,
        change_seconds=changes.seconds,
        edit_seconds=edited.seconds if scored.seconds is None else retrained.seconds,
        retrain_seconds=retrained.seconds,
        products=scored.solve.products,
        residual=_larger(scored.solve.residual, changes.residual),
        converged=scored.solve.converged,
        notes=(*filter(None, notes), *failed),
        **numbers,
    )
    asked = evaluation.extremes
    extremes = changes_without(evaluation, ends(scores, asked, evaluation.seen)) if asked else torch.empty(0)
    return Run(row=row, scores=scores.clone(), change_errors=changes.errors, curve=curve, extremes=extremes)


def _numbers(metrics: Mapping[str, Metric], measured: Measured) -> tuple[dict[str, Any], list[str]]:
    """The numbers of the metrics that have what they need, and what failed in words."""
    found: dict[str, float] = {}
    failed: list[str] = []
    for name, metric in metrics.items():
        if metric.lacks(measured):
            continue
        try:
            found |= metric.measure(measured)
        except Exception as error:  # the run itself is good
            failed.append(f"{name}: {in_words(error)}")
    return found, failed


@dataclass(frozen=True)
class _Changes:
    """What predicting the parameter changes of the truth took; empty for methods that only score."""

    seconds: float = NAN
    errors: Tensor = field(default_factory=lambda: torch.empty(0))
    residual: float = NAN


def _changes(measured: Measured, scored: Scores) -> _Changes:
    started = time.perf_counter()
    change, agreement = measured.change, measured.agreement
    if change is None or agreement is None:
        return _Changes()
    seconds = time.perf_counter() - started if scored.seconds is None else scored.seconds
    return _Changes(seconds, torch.from_numpy(agreement.relative_error), change.solve.residual)


def _edit(
    evaluation: Evaluation, method: AttributionMethod, states: Sequence[Any], removals: Sequence[Removal]
) -> Retests:
    """Test at λ* + predicted Δλ, for each removal; means over the runs, with the method's state at each."""
    qualities, seconds, complaint = [], NAN, ""
    for number, removal in enumerate(removals):
        started = time.perf_counter()
        try:
            changes = [method.parameter_change(state, [removal]) for state in states]
        except Exception as error:  # the scores are still good
            complaint = complaint or in_words(error)
            qualities.append(TestQuality())
            continue
        predicted = [change.values for change in changes if change is not None]
        if not predicted:
            qualities.append(TestQuality())
            continue
        for values in predicted:
            settle(values)
        if not number:
            seconds = time.perf_counter() - started
        tested = zip(evaluation.runs, predicted, strict=True)
        qualities.append(TestQuality.mean([one.test(one.meta + values[:, 0]) for one, values in tested]))
    return Retests(tuple(qualities), seconds, complaint)


def _curve(edited: Retests, retrained: Retests) -> RemovalCurve:
    columns = [
        [getattr(q, name) for q in way.qualities] for way in (edited, retrained) for name in ("accuracy", "loss")
    ]
    return RemovalCurve.from_tensor(torch.tensor(columns, dtype=torch.float64).T)


def _larger(a: float, b: float) -> float:
    known = [x for x in (a, b) if not np.isnan(x)]
    return max(known) if known else NAN

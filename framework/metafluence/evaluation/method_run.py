"""One run of a study: one method with one solver, compared with everything that is known."""

from __future__ import annotations

import time
import traceback
from collections.abc import Sequence
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
from metafluence.evaluation.ground_truth import Truth
from metafluence.evaluation.metrics import (
    Array,
    change_agreement,
    detection,
    linear_datamodeling_score,
    median,
    moved,
    rank_agreement,
    score_agreement,
)
from metafluence.evaluation.row import NAN, RemovalCurve, Row, Run
from metafluence.runtime import settle
from metafluence.tasks import Removal


def execute(evaluation: Evaluation, method: AttributionMethod, label: str, solver: str) -> Run:
    """Run one method. Any exception becomes a failed row with its reason; the other methods go on."""
    told = ""
    try:
        return _execute(evaluation, method, label, solver)
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


def _execute(evaluation: Evaluation, method: AttributionMethod, label: str, solver: str) -> Run:
    found = answer(evaluation, method)
    scored, seconds = found.scores, found.seconds
    scores = scored.values[:, 0].cpu()
    facts: dict[str, Any] = {
        "units": scored.units,
        "damping": getattr(method, "damping", NAN),
        "seconds": seconds,
        "products": scored.solve.products,
        "converged": scored.solve.converged,
    }
    changes = _Changes()
    if evaluation.truth is not None:
        facts |= _score_fidelity(scores.numpy(), evaluation.truth, scored)
        changes = _change_fidelity(method, found.states[0], evaluation.truth, scored)
        facts |= changes.facts
    facts["residual"] = _larger(scored.solve.residual, changes.residual)
    facts |= _detection(scores.numpy(), evaluation)
    worst = [lowest(scores, count, evaluation.seen) for count in evaluation.remove]
    edited = _edit(evaluation, method, found.states, worst)
    retrained = evaluation.retrained(worst)
    curve = _curve(edited, retrained)
    facts |= curve.first()
    facts["retrain_seconds"] = retrained.seconds
    facts["edit_seconds"] = edited.seconds if scored.seconds is None else retrained.seconds
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
        notes=tuple(filter(None, notes)),
        **facts,
    )
    asked = evaluation.extremes
    extremes = changes_without(evaluation, ends(scores, asked, evaluation.seen)) if asked else torch.empty(0)
    return Run(row=row, scores=scores.clone(), change_errors=changes.errors, curve=curve, extremes=extremes)


def _score_fidelity(scores: Array, truth: Truth, scored: Scores) -> dict[str, float]:
    """Scores [items] against the retrained changes of the validation loss; nothing where these are not reliable."""
    facts = {}
    if truth.reliability.usable:
        picked = scores[[removal[0] for removal in truth.removals]]
        true = truth.loss_change.numpy()
        agreement, ranks = score_agreement(picked, true), rank_agreement(picked, true)
        facts = {
            "pearson": agreement.pearson,
            "spearman": agreement.spearman,
            "spearman_low": ranks.low,
            "spearman_high": ranks.high,
            "slope": NAN if scored.units == "rank_only" else agreement.slope,
        }
    if truth.subset_reliability.usable:
        lds = linear_datamodeling_score(scores, truth.subsets, truth.subset_loss_change.numpy())
        facts |= {"lds": lds.value, "lds_low": lds.low, "lds_high": lds.high}
    return facts


@dataclass(frozen=True)
class _Changes:
    """How predicted parameter changes agree with retraining; empty for methods that only score."""

    facts: dict[str, float] = field(default_factory=dict)
    errors: Tensor = field(default_factory=lambda: torch.empty(0))
    residual: float = NAN


def _change_fidelity(method: AttributionMethod, state: Any, truth: Truth, scored: Scores) -> _Changes:
    started = time.perf_counter()
    change = None if truth.change is None else method.parameter_change(state, truth.removals)
    if change is None or truth.change is None:
        return _Changes()
    predicted, true = change.values.cpu().numpy(), truth.change.numpy()
    seconds = time.perf_counter() - started if scored.seconds is None else scored.seconds
    agreement, known = change_agreement(predicted, true), moved(true)
    facts = {
        "change_seconds": seconds,
        "change_error": median(agreement.relative_error[known]),
        "change_cosine": median(agreement.cosine[known]),
        "change_norm_ratio": median(agreement.norm_ratio[known]),
    }
    return _Changes(facts, torch.from_numpy(agreement.relative_error), change.solve.residual)


def _detection(scores: Array, evaluation: Evaluation) -> dict[str, float]:
    """How well low scores find the corrupted items; empty where all or none are corrupted."""
    spotted = detection(scores, evaluation.problem.tasks.corrupted_items(evaluation.level).numpy())
    if spotted is None:
        return {}
    share = evaluation.remove[0] / len(scores)
    return {"auroc": spotted.auroc, "average_precision": spotted.average_precision, "found": spotted.found_at(share)}


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

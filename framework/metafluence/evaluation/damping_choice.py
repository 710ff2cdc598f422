"""The damping of methods that set none: the same rule for all, on tasks that are neither targets nor test tasks.

The items of lowest score are removed and the model is retrained exactly without them; the damping after which it does
best on the selection tasks is taken. A removal that several dampings, or several methods, agree on is retrained once.

Were dampings chosen on the targets, a method with a damping would have the best of several tries at the very losses
that its scores are compared with, and one without a single try. The selection tasks are therefore no targets of any
method, tuned or not. Retraining is what the study compares with anyway; it tells the rule only which removal is better
on tasks that are looked at nowhere else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import isfinite
from typing import Any

from torch import Tensor

from metafluence.attribution import AttributionMethod, Context, Targets, prepare_and_score
from metafluence.bilevel import BilevelProblem
from metafluence.errors import in_words
from metafluence.evaluation.evaluation import Evaluation
from metafluence.evaluation.extremes import lowest
from metafluence.evaluation.method_run import execute, failed_run
from metafluence.evaluation.metric import Metric
from metafluence.evaluation.plan import Plan
from metafluence.evaluation.row import Run
from metafluence.evaluation.standing import shipped_metrics
from metafluence.tasks import Removal

NAN = float("nan")
FAILED = "the retraining without its items of lowest score did not converge."


@dataclass(frozen=True)
class Tried:
    """One damping: the items removed with it, and the selection tasks' loss after that; or why it cannot be used."""

    damping: float
    removal: Removal = ()
    loss: float = NAN
    reason: str = ""


def execute_plan(evaluation: Evaluation, plan: Plan, metrics: Mapping[str, Metric] | None = None) -> Run:
    """Run a plan's method, with the best of its dampings where it has some to be tried.

    Where none can be used the run is a row with the reasons. metrics: that every table has; the shipped ones if not
    given.
    """
    metrics = shipped_metrics() if metrics is None else metrics
    if not plan.dampings:
        return execute(evaluation, plan.method, plan.label, plan.solver, metrics)
    tried = try_dampings(evaluation, plan.method, plan.dampings)
    usable = [one for one in tried if not one.reason]
    skipped = tuple(f"Damping {one.damping:g} was left out: {one.reason}" for one in tried if one.reason)
    if not usable:
        return failed_run(evaluation, plan.method, plan.label, plan.solver, " ".join(skipped))
    best = min(usable, key=lambda one: (one.loss, one.damping))
    losses = ", ".join(f"{one.damping:g}: {one.loss:.5g}" for one in usable)
    notes = (f"Loss of the selection tasks, retrained, by damping: {losses}.", *skipped)
    run = execute(evaluation, _damped(plan.method, best.damping), plan.label, plan.solver, metrics)
    return replace(run, row=replace(run.row, notes=(*notes, *run.row.notes)))


def try_dampings(evaluation: Evaluation, method: AttributionMethod, dampings: Sequence[float]) -> list[Tried]:
    """Remove what the method scores lowest with each damping, retrain, and look at the selection tasks."""
    assert evaluation.bank is not None, "dampings are chosen by retraining"
    assert evaluation.selection is not None
    context, targets = evaluation.context(), evaluation.targets()
    tried = [_lowest_with(evaluation, _damped(method, damping), damping, context, targets) for damping in dampings]
    removals = sorted({one.removal for one in tried if not one.reason})
    if not removals:
        return tried
    fits = evaluation.bank.leave_out(removals, evaluation.level, strict=False)
    over = evaluation.problem.over(evaluation.selection)
    judged = {
        removal: _loss(over, meta) if converged else (NAN, reason or FAILED)
        for removal, meta, converged, reason in zip(removals, fits.meta.T, fits.converged, fits.reasons, strict=True)
    }
    return [one if one.reason else _judged(one, *judged[one.removal]) for one in tried]


def _loss(over: BilevelProblem, meta: Tensor) -> tuple[float, str]:
    """The tasks' loss, and why it cannot be used, if so."""
    loss = float(over.at(meta).task_losses.mean())
    return loss, "" if isfinite(loss) else "the retraining without its items of lowest score has no finite loss."


def _judged(one: Tried, loss: float, reason: str) -> Tried:
    return replace(one, loss=loss, reason=reason)


def _lowest_with(
    evaluation: Evaluation, method: AttributionMethod, damping: float, context: Context, targets: Targets
) -> Tried:
    # The point's graphs serve all dampings; the randomness is a run's own, so that the run removes the same items.
    context = replace(context, generator=evaluation.generator())
    try:
        _, scored = prepare_and_score(method, context, targets)
    except Exception as error:
        return Tried(damping, reason=in_words(error))
    return Tried(damping, lowest(scored.values[:, 0].cpu(), evaluation.remove[0], evaluation.seen))


def _damped(method: Any, damping: float) -> AttributionMethod:
    return replace(method, damping=damping)

"""Scores of all items of a recorded run, and whether a first order through it can be trusted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from metafluence.attribution import AttributionMethod, Context, Scores, Targets, Units, attribute_levels
from metafluence.errors import InputError, MetafluenceError
from metafluence.evaluation.replays import replayable
from metafluence.evaluation.run_trust import RunTrust, run_trust, scores_trust
from metafluence.progress import Observer
from metafluence.tasks import Level, TaskSet
from metafluence.training import TrainingRun


@dataclass(frozen=True)
class RunScores:
    """values [items]: the predicted change of the targets' mean loss when an item is removed; positive: it helps.

    tasks: of the run. targets: how many tasks the loss is of. loss: their mean loss at the run's end. units: of the
    values. notes: what a reader should know of them. trust: of these scores; None where it was not tried.
    """

    tasks: TaskSet
    level: Level
    values: Tensor
    units: Units
    targets: int
    loss: float
    notes: tuple[str, ...] = ()
    trust: RunTrust | None = None


def score_run(
    run: TrainingRun,
    tasks: TaskSet,
    method: AttributionMethod,
    level: Level = "task",
    *,
    trust: bool = True,
    observer: Observer | None = None,
    folder: str | Path | None = None,
) -> RunScores:
    """Score every item of a recorded run by the mean loss of other tasks.

    Args:
        run: the run.
        tasks: the targets, such as validation tasks.
        method: that scores.
        level: of the items.
        trust: whether the scores are tried, too, by replays that take some 20 times the training: `run_trust` for the
            derivative of the run, `scores_trust` for any other method.
        observer: is told how far it has come.
        folder: where long work is kept, to go on from after an interruption.

    Raises:
        InputError: the run has no such items, the method cannot score them or replays the run, or the tasks do not
            fit the learner.
    """
    return score_run_levels(run, tasks, method, (level,), trust=trust, observer=observer, folder=folder)[level]


def score_run_levels(
    run: TrainingRun,
    tasks: TaskSet,
    method: AttributionMethod,
    levels: Sequence[Level],
    *,
    trust: bool = True,
    observer: Observer | None = None,
    folder: str | Path | None = None,
) -> dict[Level, RunScores]:
    """As `score_run`, of the items of several levels, each tried: `run-influence` takes one sweep for all of them."""
    watching = observer or Observer()
    if method.retrains:
        raise InputError(
            f"{type(method).__name__} replays the run without every item. Ask for it in a study of this run "
            "(`run: FOLDER`, `methods: [retrain]`), of as many items as its truth has; or score by run-influence."
        )
    for level in levels:
        run.problem.tasks.items(level)
    targets = Targets(run.problem, tasks, run.final)
    context = Context(run.problem.at(run.final, run.weights), run=run, observer=watching, folder=folder)
    scores = attribute_levels(method, context, targets, levels)
    tried: dict[Level, RunTrust] = {}
    if trust:
        watching.stage("trying the scores by replays", len(levels))
        exact, doubt = _exact(run)
        for number, level in enumerate(levels, start=1):
            tried[level] = doubt or _trust(exact, targets.at(exact.final), method, scores[level])
            watching.step(number, len(levels), level)
        watching.done("; ".join(found.verdict for found in tried.values()))
    loss = float(targets.losses().mean())
    return {
        level: RunScores(
            run.problem.tasks,
            level,
            found.values[:, 0].cpu(),
            found.units,
            len(tasks),
            loss,
            found.notes,
            tried.get(level),
        )
        for level, found in scores.items()
    }


def _exact(run: TrainingRun) -> tuple[TrainingRun, RunTrust | None]:
    """The run that is replayed; or why replays say nothing of it."""
    try:
        return replayable(run), None
    except MetafluenceError as error:
        return run, RunTrust("none", str(error))


def _trust(run: TrainingRun, targets: Targets, method: AttributionMethod, scores: Scores) -> RunTrust:
    if method.differentiates_run:
        return run_trust(run, targets, scores.level)
    return scores_trust(run, targets, scores.values[:, 0].cpu(), scores.units == "loss_change", scores.level)

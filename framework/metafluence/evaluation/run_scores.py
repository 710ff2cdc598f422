"""Scores of all items of a recorded run, and whether a first order through it can be trusted."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from metafluence.attribution import AttributionMethod, Context, Targets, Units, attribute
from metafluence.evaluation.run_trust import RunTrust, run_trust
from metafluence.progress import Observer
from metafluence.tasks import Level, TaskSet
from metafluence.training import TrainingRun, remade_run


@dataclass(frozen=True)
class RunScores:
    """values [items]: the predicted change of the targets' mean loss when an item is removed; positive: it helps.

    tasks: of the run. targets: how many tasks the loss is of. loss: their mean loss at the run's end. units: of the
    values. notes: what a reader should know of them. trust: None where it was not tried.
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
    folder: Path | None = None,
) -> RunScores:
    """Score every item of a recorded run by the mean loss of other tasks.

    Args:
        run: the run.
        tasks: the targets, such as validation tasks.
        method: that scores.
        level: of the items.
        trust: whether the run is tried, too (`run_trust`), which takes some 20 times its training.
        observer: is told how far it has come.
        folder: where long work is kept, to go on from after an interruption.

    Raises:
        InputError: the run has no such items, the method cannot score them, or the tasks do not fit the learner.
    """
    watching = observer or Observer()
    run.problem.tasks.items(level)
    targets = Targets(run.problem, tasks, run.final)
    context = Context(run.problem.at(run.final), level, run=run, observer=watching, folder=folder)
    scores = attribute(method, context, targets)
    tried = None
    if trust:
        watching.stage("trying the run by replays")
        exact = remade_run(run) if run.drift else run
        tried = run_trust(exact, targets.at(exact.final), level)
        watching.done(tried.verdict)
    values = scores.values[:, 0].cpu()
    loss = float(targets.losses().mean())
    return RunScores(run.problem.tasks, level, values, scores.units, len(tasks), loss, scores.notes, tried)

"""All items' scores with their names, as a file: which of one's tasks, instances or images to look at."""

from __future__ import annotations

import pandas as pd

from metafluence.evaluation import Run
from metafluence.studies import CandidateScores, StudyResult
from metafluence.tasks import Level, TaskSet, item_names


def score_frame(result: StudyResult, level: Level) -> pd.DataFrame:
    """A line for each item: its number, name and marks, the scores of every run, and the true change where it is known.

    Columns: item; task, or image and class, by name; corrupted; a column of scores for each run (lower is more
    harmful); `true loss change` in nats, of the mean target after removal, empty where it was not made.
    """
    frame = item_frame(result.split.train, level)
    for run in result.at(level):
        if run.row.status == "ok":
            frame[_title(run)] = run.scores.numpy()
    truth = result.evaluations[level].truth
    if truth is not None:
        known = {removal[0]: float(change) for removal, change in zip(truth.removals, truth.loss_change, strict=True)}
        frame["true loss change"] = [known.get(item) for item in range(len(frame))]
    return frame


def candidate_frame(found: CandidateScores) -> pd.DataFrame:
    """The same of candidates: a column of scores for each method (higher: adding it helps more), and the exact fits.

    `true gain`: the mean target's loss without the item minus that with it, in nats; empty where it was not made.
    """
    frame = item_frame(found.tasks, found.level)
    for title, scores in found.scores.items():
        frame[title] = scores.numpy()
    if found.true:
        frame["true gain"] = [found.true.get(item) for item in range(len(frame))]
    return frame


def _title(run: Run) -> str:
    return f"{run.row.method} {run.row.solver}".strip()


def item_frame(tasks: TaskSet, level: Level) -> pd.DataFrame:
    """A line for each item: its number, its names, and whether it is marked as corrupted."""
    frame = pd.DataFrame({"item": range(tasks.items(level)), **item_names(tasks, level)})
    frame["corrupted"] = tasks.corrupted_items(level).numpy()
    return frame

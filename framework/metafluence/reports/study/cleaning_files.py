"""A cleaned list of files, and the evidence for it."""

from __future__ import annotations

from math import isnan
from pathlib import Path

import pandas as pd

from metafluence.evaluation import DRAWS
from metafluence.reports import write_csv
from metafluence.reports.study.score_files import item_frame
from metafluence.studies import Cleaning


def cleaning_answer(found: Cleaning) -> list[str]:
    """Whether to remove what the method would remove, in sentences; the answer first."""
    evidence = found.evidence
    if evidence is None:
        return [f"Nothing is removed: {found.method} predicts of no image that the targets would do better without it."]
    count, draws = len(evidence.removed[found.method]), int(evidence.random.isfinite().sum())
    again = "the replay" if found.replays else "the refit"
    tasks = f"{found.judges} {'test tasks' if found.fresh else 'target tasks, for which the scores were made,'}"
    change, chance = evidence.change[found.method], evidence.by_chance
    random = (
        f"without {draws} random sets of {count} it is {chance.value:+.4f} ({chance.low:+.4f} to {chance.high:+.4f})"
    )
    numbers = f"the mean loss of {tasks} changes by {change:+.4f} in {again} without them; {random}"
    if isnan(change):
        first = f"There is no evidence for removing these {count} images: {again} without them failed."
    elif evidence.beats_random(found.method) and change < 0 and not found.fresh:
        first = (
            f"These {count} images harm the very tasks that they were chosen for: {numbers}. Whether other tasks gain "
            "is not shown. Give the study a data set that has test tasks beside the targets before you remove them."
        )
    elif evidence.beats_random(found.method) and change < 0:
        luck = f"and none of them goes as far, which happens by chance once in {draws + 1} times"
        shown = (
            f"Remove these {count} images" if draws >= DRAWS else f"Try {DRAWS} random sets or more before you decide"
        )
        first = f"{shown}: {numbers}, {luck}."
    elif change < 0:
        first = f"No improvement beyond random removals is shown for these {count} images: {numbers}."
    else:
        first = f"Do not remove these {count} images for these tasks: {numbers}."
    other = evidence.change["loss"]
    beats = "further than" if evidence.beats_random("loss") else "not beyond"
    return [
        first,
        f"Without the {count} images of largest loss it changes by {other:+.4f}, {beats} random sets. Loss finds wrong "
        "labels, influence finds what hurts these targets: look at both columns before you delete a file.",
    ]


def write_cleaning(found: Cleaning, folder: str | Path) -> list[Path]:
    """Write removed.csv and kept.csv, every image by name with all scores, the most harmful first, and evidence.csv.

    removed.csv says why: the rank among all scores, and whether `loss` would remove it, too. evidence.csv has the
    change of the mean loss without each set that was tried, in nats. Returns their paths.
    """
    frame = item_frame(found.tasks, "image").drop(columns="item")
    for title, scores in found.scores.items():
        frame[title] = scores.numpy()
    evidence = found.evidence
    removed = evidence.removed if evidence is not None else {found.method: (), "loss": ()}
    order, count = frame.sort_values(found.method, kind="stable"), len(removed[found.method])
    why = [
        f"number {rank} of {len(order)} by {found.method}{', and of largest loss' if item in removed['loss'] else ''}"
        for rank, item in enumerate(order.index, start=1)
    ]
    tables = {"removed": order.assign(why=why).head(count), "kept": order.tail(len(order) - count)}
    if evidence is not None:
        tried = {**evidence.change, **{f"random {i}": float(x) for i, x in enumerate(evidence.random, start=1)}}
        tables["evidence"] = pd.DataFrame({"without": tried.keys(), "change of the mean loss": tried.values()})
    files = {Path(folder) / f"{name}.csv": table for name, table in tables.items()}
    for file, table in files.items():
        write_csv(file, table)
    return list(files)

"""The most harmful and the most helpful tasks and instances of a study, as pictures."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from metafluence.evaluation import Row, Run
from metafluence.reports import HALVES, RED, Half, draw_curve, draw_image, drawn_as, in_figure, points_of, share_legend
from metafluence.studies import StudyResult
from metafluence.tasks import Level, TaskSet

TASKS, INSTANCES = 3, 12
"""How many are shown at each end."""
ACROSS = 6
"""Pictures in a row."""
LETTERS = 11
"""Of a line below a picture."""
WIDTH = 4.8
"""Inches: narrow enough that the text can be read on a phone."""
NO_JUDGES = ("random", "loss")
"""Methods that know nothing of removal, whose scores are not shown."""


@dataclass(frozen=True)
class Exhibit:
    """Pictures of both ends, by `harmful` and `helpful`, and the name of the method whose scores they go by."""

    judge: str
    figures: dict[str, Figure]


def judge(result: StudyResult, level: Level) -> Run | None:
    """The run whose scores are gone by: of the method that ranks best, or the first one where nothing ranks."""
    done = [run for run in result.at(level) if run.row.status == "ok" and not run.row.retrains]
    runs = [run for run in done if run.row.method.split()[0] not in NO_JUDGES]
    best = best_ranking([run.row for run in runs])
    return next((run for run in runs if best is None or run.row is best), None)


def best_ranking(rows: Sequence[Row]) -> Row | None:
    """The one that ranks most like exact retraining, of equal ones the fastest; None where nothing is known."""
    ranked = [r for r in rows if not math.isnan(r.spearman)]
    return max(ranked, key=lambda r: (round(r.spearman, 3), -r.seconds)) if ranked else None


def exhibit(result: StudyResult, level: Level) -> Exhibit | None:
    """Both ends of one level's items; None where no method has scores, or tasks are no images and no curves."""
    run, tasks = judge(result, level), result.split.train
    if run is None or not drawn_as(tasks):
        return None
    figures = drawn_ends(tasks, result.split.clean, level, run.scores, run.row.units)
    return Exhibit(run.row.name, figures) if figures else None


def drawn_ends(tasks: TaskSet, clean: TaskSet, level: Level, scores: Tensor, units: str) -> dict[str, Figure]:
    """Pictures of the items at both ends, by `harmful` and `helpful`; none of an end that is empty.

    tasks: images or curves. clean: the same before they were corrupted, as far as that is known.
    """
    draw = _tasks if level == "task" else _instances
    found = ends(scores, units, TASKS if level == "task" else INSTANCES)
    return {name: draw(tasks, clean, level, items, scores) for name, items in found.items() if items}


def ends(scores: Tensor, units: str, most: int) -> dict[str, list[int]]:
    """The items of lowest and of highest score, the extreme one first; no item is in both.

    Where scores are loss changes, only items that harm are harmful, and only those that help helpful.
    """
    order, values = torch.argsort(scores, stable=True).tolist(), scores.tolist()
    count = min(most, len(order) // 2)
    low, high = order[:count], order[::-1][:count]
    if units == "loss_change":
        low, high = [i for i in low if values[i] < 0], [i for i in high if values[i] > 0]
    return {"harmful": low, "helpful": high}


def _tasks(tasks: TaskSet, clean: TaskSet, level: Level, items: list[int], scores: Tensor) -> Figure:
    titles = [f"{in_figure(tasks.ids[i])}, score {scores[i]:.2g}{_share(tasks, i)}" for i in items]
    if drawn_as(tasks) == "curves":
        figure = Figure(figsize=(WIDTH, 0.4 + 2.0 * len(items)), layout="constrained")
        axes = figure.subplots(len(items), 1, squeeze=False, sharex=True)[:, 0]
        for axis, i, title in zip(axes, items, titles, strict=True):
            draw_curve(axis, tasks, clean, i)
            axis.set_title(title, loc="left", fontsize=9, color=RED if tasks.corrupted[i] else "black")
        share_legend(figure, axes)
        return figure
    figure = Figure(figsize=(WIDTH, 2.35 * len(items)), layout="constrained")
    for part, i, title in zip(figure.subfigures(len(items), 1, squeeze=False)[:, 0], items, titles, strict=True):
        part.suptitle(title, x=0.02, ha="left", fontsize=9, color=RED if tasks.corrupted[i] else "black")
        for half, axes in zip(HALVES, part.subplots(2, ACROSS, squeeze=False), strict=True):
            marks = getattr(tasks, f"corrupted_{half}")[i][tasks.held(half)[i]]
            for axis in axes:
                axis.set_axis_off()
            for axis, j in zip(axes, sampled(marks, ACROSS), strict=False):
                draw_image(axis, getattr(tasks, half), getattr(clean, half), bool(marks[j]), (i, j))
            axes[0].annotate(
                half, (0, 0.5), (-5, 0), xycoords="axes fraction", textcoords="offset points", rotation=90,
                va="center", ha="right", fontsize=8,
            )  # fmt: skip
    return figure


def _share(tasks: TaskSet, task: int) -> str:
    """How much of a task was corrupted, in words; empty for nothing."""
    marks = {half: getattr(tasks, f"corrupted_{half}")[task][tasks.held(half)[task]] for half in HALVES}
    parts = [f"{int(m.sum())} of {len(m)} {half}" for half, m in marks.items() if m.any()]
    return f"; corrupted: {', '.join(parts)}" if parts else ""


def sampled(marks: Tensor, most: int) -> list[int]:
    """Which instances of a half stand for it: evenly from the clean and from the corrupted, in their proportion."""
    if len(marks) <= most:
        return list(range(len(marks)))
    bad, good = marks.nonzero().flatten(), (~marks).nonzero().flatten()
    share = round(most * len(bad) / len(marks))
    count = min(max(share, int(len(bad) > 0)), most - int(len(good) > 0))
    picked = [
        some[torch.linspace(0, len(some) - 1, n).round().long()]
        for some, n in ((bad, count), (good, most - count))
        if n
    ]
    return sorted(torch.cat(picked).tolist())


def _instances(tasks: TaskSet, clean: TaskSet, level: Level, items: list[int], scores: Tensor) -> Figure:
    curves = drawn_as(tasks) == "curves"
    across = 3 if curves else ACROSS
    down = -(-len(items) // across)
    figure = Figure(figsize=(WIDTH, 1.5 * down), layout="constrained")
    axes = figure.subplots(down, across, squeeze=False).ravel()
    for axis in axes[len(items) :]:
        axis.set_axis_off()
    for axis, item in zip(axes, items, strict=False):
        half, at, name = _place(tasks, level, item)
        below = (*_name_lines(name), f"{scores[item]:.1e}")
        if curves:
            _point(axis, tasks, clean, half, at, below)
        else:
            marked = bool(getattr(tasks, f"corrupted_{half}")[at])
            draw_image(axis, getattr(tasks, half), getattr(clean, half), marked, at, below)
    return figure


def _name_lines(name: str) -> list[str]:
    """A name below a picture; a long one's folder and file on a line each, of which the ends tell most."""
    folder, slash, file = name.rpartition("/")
    parts = [f"{folder}/", file] if slash and len(name) > LETTERS else [name]
    return [in_figure(part if len(part) <= LETTERS else f"…{part[1 - LETTERS :]}") for part in parts]


def _place(tasks: TaskSet, level: Level, item: int) -> tuple[Half, tuple[int, int], str]:
    """Where an item is seen, its half, task and instance, and its name: of an image or a class the first place."""
    if level in HALVES:
        i, j = divmod(item, tasks.each(level))
        return level, (i, j), tasks.ids[i]
    origins = tasks.origins
    assert origins is not None
    for half in HALVES:
        images: Tensor = getattr(origins, half)
        found = (images if level == "image" else origins.labels[images]) == item
        if bool(found.any()):
            i, j = found.nonzero()[0].tolist()
            return half, (i, j), (origins.images if level == "image" else origins.classes)[item]
    raise AssertionError(f"no task holds {level} {item}")


def _point(axis: Axes, tasks: TaskSet, clean: TaskSet, half: Half, at: tuple[int, int], below: tuple[str, ...]) -> None:
    """A task's curve and points, the one that is meant in black."""
    draw_curve(axis, tasks, clean, at[0], scale=0.6)
    axis.plot(*points_of(getattr(tasks, half), at[0])[at[1]].numpy(), "D", color="black", ms=5, zorder=5)
    marked = bool(getattr(tasks, f"corrupted_{half}")[at])
    axis.set_title("\n".join(below), fontsize=8, color=RED if marked else "black")
    axis.tick_params(labelsize=7)

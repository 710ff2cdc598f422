"""What is in a data set: facts in words, and a picture of a few of its tasks."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import Tensor

from metafluence.errors import InputError
from metafluence.reports.plain_text import in_figure
from metafluence.reports.style import RED, png
from metafluence.reports.task_pictures import HALVES, draw_curve, draw_image, drawn_as, share_legend
from metafluence.runtime import write_atomically
from metafluence.tasks import SETS, Corruption, Dataset, Episodes, Labelled, LabelledDataset, TaskSet, corrupt, sample

TASKS = 4
LOOKED_AT = 1000
"""How many instances, evenly spaced, the range of values is taken from."""


@dataclass(frozen=True)
class Summary:
    """What `metafluence data show` says, as pairs of what and how much; data: what was read, of classes."""

    lines: tuple[tuple[str, str], ...]
    data: Labelled | None


def summarise(dataset: Dataset) -> Summary:
    """Read a data set and describe it. Raises DataError where it cannot be read."""
    if isinstance(dataset, LabelledDataset):
        data = dataset.load()
        return Summary(tuple(_of_classes(data)), data)
    tasks = _draw(dataset, None, Episodes(train=200, validation=1, test=1, shot=10, query=10), 0)
    halves = tasks.support, tasks.query
    x, y = (torch.cat([getattr(half, what).flatten(0, 1) for half in halves]) for what in ("inputs", "targets"))
    shape, size = list(tasks.input_shape), y.shape[-1]
    real = f"{size} real value{'s' if size > 1 else ''}, {y.min():.2f} to {y.max():.2f}"
    lines = (
        ("tasks", "drawn anew without end; shown are figures of 200"),
        ("inputs", f"{shape}, {x.min():.2f} to {x.max():.2f}"),
        ("targets", real if tasks.real else f"{tasks.ways} classes"),
    )
    return Summary(lines, None)


def _of_classes(data: Labelled) -> list[tuple[str, str]]:
    each = torch.bincount(data.labels, minlength=len(data.classes))
    low, high = int(each.min()), int(each.max())
    looked = torch.linspace(0, len(data.labels) - 1, min(LOOKED_AT, len(data.labels))).long()
    drawn = data.inputs[looked]
    least, most = (f"{float(v):g}" for v in (drawn.min(), drawn.max()))
    scaled = ", scaled to 0 to 1 when drawn" if drawn.dtype == torch.uint8 else ""
    some = f" (of {len(looked):,} instances)" if len(looked) < len(data.labels) else ""
    held = f"{data.inputs.nbytes / 2**20:,.1f} MiB" if data.inputs.nbytes else "none held; files are read when drawn"
    examples = ", ".join(data.classes[:3]) + (", …" if len(data.classes) > 3 else "")
    lines = [
        ("classes", f"{len(data.classes):,}: {examples}"),
        ("instances", f"{len(data.labels):,}, {f'{low:,}' if low == high else f'{low:,} to {high:,}'} per class"),
        ("shape", " × ".join(str(n) for n in drawn.shape[1:])),
        ("values", f"{least} to {most}{some}{scaled}"),
        ("memory", held),
    ]
    if data.splits is None:
        return [*lines, ("published splits", "none")]
    sizes = [f"{name} {len(part):,}" for name, part in zip(SETS, data.splits, strict=True)]
    if not data.splits[1]:
        sizes[1] = "validation some of train's"
    return [*lines, ("published splits", ", ".join(sizes) + " classes")]


def write_preview(
    dataset: Dataset,
    file: str | Path,
    summary: Summary,
    way: int = 5,
    seed: int = 0,
    corruption: Corruption | None = None,
) -> TaskSet:
    """Draw a few tasks into a PNG file: images with their labels, or curves. What was corrupted is framed in red.

    Returns the tasks. Raises InputError where instances are neither images nor single numbers.
    """
    if summary.data is not None:
        # From few classes, such as ten digits, three sets of classes cannot be made.
        split = "instances" if len(summary.data.classes) < 5 * way else "classes"
        episodes = Episodes(TASKS, 1, 1, way, shot=1, query=2, split=split)
    else:
        episodes = Episodes(TASKS, 1, 1, shot=5, query=20)
    clean = _draw(dataset, summary.data, episodes, seed)
    shown = corrupt(clean, corruption, torch.Generator().manual_seed(seed)) if corruption is not None else clean
    figure = _curves(shown, clean) if shown.real else _images(shown, clean)
    write_atomically(Path(file), png(figure))
    return shown


def _draw(dataset: Dataset, data: Labelled | None, episodes: Episodes, seed: int) -> TaskSet:
    generator = torch.Generator().manual_seed(seed)
    if data is not None:
        return sample(data, episodes, generator, torch.float32).train
    return dataset.tasks(episodes, generator, torch.float32).train


def _images(tasks: TaskSet, clean: TaskSet) -> Figure:
    if not drawn_as(tasks):
        raise InputError(
            f"Instances of shape {list(tasks.input_shape)} cannot be drawn: images [1 or 3, height, width] can."
        )
    counts = [half.targets.shape[1] for half in (tasks.support, tasks.query)]
    columns = sum(counts) + 1  # one left empty between the halves
    figure = Figure(figsize=(max(0.78 * columns, 7.0), 0.5 + 1.02 * len(tasks)), layout="constrained")
    axes = figure.subplots(len(tasks), columns, squeeze=False, gridspec_kw={"width_ratios": _widths(counts)})
    for axis in axes.ravel():
        axis.set_axis_off()
    for name, start in zip(HALVES, (0, counts[0] + 1), strict=True):
        marks: Tensor = getattr(tasks, f"corrupted_{name}")
        for row in range(len(tasks)):
            for column in range(int(tasks.held(name)[row].sum())):
                axis, truth = axes[row, start + column], getattr(clean, name)
                draw_image(axis, getattr(tasks, name), truth, bool(marks[row, column]), (row, column))
        axes[0, start].annotate(
            name, (0, 1.0), (0, 17), xycoords="axes fraction", textcoords="offset points", weight="bold", fontsize=9
        )
    for row, name in enumerate(tasks.ids):
        axes[row, 0].annotate(
            in_figure(name), (0, 0.5), (-8, 0), xycoords="axes fraction", textcoords="offset points",
            rotation=90, va="center", ha="right", fontsize=9, color=RED if tasks.corrupted[row] else "black",
        )  # fmt: skip
    return figure


def _widths(counts: list[int]) -> list[float]:
    return [1.0] * counts[0] + [0.35] + [1.0] * counts[1]


def _curves(tasks: TaskSet, clean: TaskSet) -> Figure:
    if not drawn_as(tasks):
        raise InputError(f"Inputs of shape {list(tasks.input_shape)} cannot be drawn as curves: single numbers can.")
    figure = Figure(figsize=(9, 6), layout="constrained")
    axes = figure.subplots(2, -(-len(tasks) // 2), squeeze=False, sharex=True, sharey=True).ravel()
    for row, (axis, name) in enumerate(zip(axes, tasks.ids, strict=False)):
        draw_curve(axis, tasks, clean, row)
        axis.set_title(in_figure(name), color=RED if tasks.corrupted[row] else "black", fontsize=10)
    share_legend(figure, axes)
    return figure

"""What is in a data set: facts in words, and a picture of a few of its tasks."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from metafluence.corruption import Corruption, corrupt
from metafluence.datasets import Dataset, LabelledDataset
from metafluence.episodes import SETS, Episodes, Labelled, sample
from metafluence.errors import InputError
from metafluence.figures import COLOURS, png
from metafluence.store import write_atomically
from metafluence.tasks import Batch, TaskSet

TASKS = 4
LOOKED_AT = 1000
"""How many instances, evenly spaced, the range of values is taken from."""
RED = "#C0262D"


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
    x, y = (torch.cat([getattr(half, what) for half in (tasks.support, tasks.query)]) for what in ("inputs", "targets"))
    shape, size = list(tasks.input_shape), tasks.support.targets.shape[-1]
    lines = (
        ("tasks", "drawn anew without end; shown are figures of 200"),
        ("inputs", f"{shape}, {x.min():.2f} to {x.max():.2f}"),
        ("targets", f"{size} real value{'s' if size > 1 else ''}, {y.min():.2f} to {y.max():.2f}"),
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
    dataset: Dataset, file: Path, summary: Summary, way: int = 5, seed: int = 0, corruption: Corruption | None = None
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
    write_atomically(file, png(figure))
    return shown


def _draw(dataset: Dataset, data: Labelled | None, episodes: Episodes, seed: int) -> TaskSet:
    generator = torch.Generator().manual_seed(seed)
    if data is not None:
        return sample(data, episodes, generator, torch.float32).train
    return dataset.tasks(episodes, generator, torch.float32).train


def _images(tasks: TaskSet, clean: TaskSet) -> Figure:
    if len(tasks.input_shape) != 3 or tasks.input_shape[0] not in (1, 3):
        raise InputError(
            f"Instances of shape {list(tasks.input_shape)} cannot be drawn: images [1 or 3, height, width] can."
        )
    counts = [half.targets.shape[1] for half in (tasks.support, tasks.query)]
    columns = sum(counts) + 1  # one left empty between the halves
    figure = Figure(figsize=(max(0.78 * columns, 7.0), 0.5 + 1.02 * len(tasks)), layout="constrained")
    axes = figure.subplots(len(tasks), columns, squeeze=False, gridspec_kw={"width_ratios": _widths(counts)})
    for axis in axes.ravel():
        axis.set_axis_off()
    for name, start in (("support", 0), ("query", counts[0] + 1)):
        marks: Tensor = getattr(tasks, f"corrupted_{name}")
        for row in range(len(tasks)):
            for column in range(len(marks[row])):
                axis, truth = axes[row, start + column], getattr(clean, name)
                _image(axis, getattr(tasks, name), truth, bool(marks[row, column]), (row, column))
        axes[0, start].annotate(
            name, (0, 1.0), (0, 17), xycoords="axes fraction", textcoords="offset points", weight="bold", fontsize=9
        )
    for row, name in enumerate(tasks.ids):
        axes[row, 0].annotate(
            name, (0, 0.5), (-8, 0), xycoords="axes fraction", textcoords="offset points",
            rotation=90, va="center", ha="right", fontsize=9, color=RED if tasks.corrupted[row] else "black",
        )  # fmt: skip
    return figure


def _widths(counts: list[int]) -> list[float]:
    return [1.0] * counts[0] + [0.35] + [1.0] * counts[1]


def _image(axis: Axes, shown: Batch, truth: Batch, marked: bool, at: tuple[int, int]) -> None:
    """One instance under its label; a corrupted one in a red frame, with what its label was if that was changed."""
    pixels = shown.inputs[at].movedim(0, -1).clamp(0, 1).numpy()
    grey = pixels.shape[-1] == 1
    axis.imshow(pixels[..., 0] if grey else pixels, cmap="gray" if grey else None, vmin=0, vmax=1)
    label, was = int(shown.targets[at]), int(truth.targets[at])
    text = str(label) if label == was else f"{label}, was {was}"
    if marked and label == was:
        text = f"{label}, noisy"
    axis.set_title(text, fontsize=8, pad=3, color=RED if marked else "black")
    if marked:
        axis.set_axis_on()
        axis.set(xticks=[], yticks=[])
        for spine in axis.spines.values():
            spine.set(color=RED, linewidth=2.5)


def _curves(tasks: TaskSet, clean: TaskSet) -> Figure:
    """Points over a line through the task as it was; what was corrupted is ringed, and tied to where it was."""
    if tasks.input_shape.numel() != 1:
        raise InputError(f"Inputs of shape {list(tasks.input_shape)} cannot be drawn as curves: single numbers can.")
    figure = Figure(figsize=(9, 6), layout="constrained")
    axes = figure.subplots(2, -(-len(tasks) // 2), squeeze=False, sharex=True, sharey=True).ravel()
    for row, (axis, name) in enumerate(zip(axes, tasks.ids, strict=False)):
        points = torch.cat([_points(half, row) for half in (clean.support, clean.query)])
        axis.plot(*points[points[:, 0].argsort()].T.numpy(), color="#bbbbbb", lw=1.2, zorder=0)
        for half, marker, colour in (("support", "o", COLOURS[0]), ("query", "^", COLOURS[2])):
            now, before = (_points(getattr(some, half), row) for some in (tasks, clean))
            axis.plot(*now.T.numpy(), marker, color=colour, label=half)
            marks = getattr(tasks, f"corrupted_{half}")[row]
            if marks.any():
                axis.plot(*torch.stack([before[marks], now[marks]]).permute(2, 0, 1).numpy(), color=RED, lw=0.8)
                axis.plot(*now[marks].T.numpy(), "o", mfc="none", mec=RED, ms=12, mew=1.8, label="corrupted")
        axis.set_title(name, color=RED if tasks.corrupted[row] else "black", fontsize=10)
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(color="#eeeeee")
    found = [axis.get_legend_handles_labels() for axis in axes]
    entries = {label: handle for handles, labels in found for handle, label in zip(handles, labels, strict=True)}
    figure.legend(list(entries.values()), list(entries), loc="outside lower center", ncols=3, frameon=False)
    return figure


def _points(half: Batch, row: int) -> Tensor:
    """[n, 2]: input and first target of a task's instances."""
    return torch.stack([half.inputs[row].flatten(), half.targets[row][:, 0]], dim=1)

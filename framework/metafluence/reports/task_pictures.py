"""How instances and tasks are drawn: images under their labels, curves; what was corrupted is marked in red."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from metafluence.reports.style import COLOURS, RED
from metafluence.tasks import Batch, TaskSet

Half = Literal["support", "query"]
HALVES: tuple[Half, ...] = ("support", "query")


def drawn_as(tasks: TaskSet) -> Literal["images", "curves", ""]:
    """How these tasks can be drawn; empty where they cannot: instances are neither images nor single numbers."""
    if tasks.real:
        return "curves" if tasks.input_shape.numel() == 1 else ""
    return "images" if len(tasks.input_shape) == 3 and tasks.input_shape[0] in (1, 3) else ""


def draw_image(
    axis: Axes, shown: Batch, truth: Batch, marked: bool, at: tuple[int, int], below: tuple[str, ...] = ()
) -> None:
    """One instance under its label; a corrupted one in a red frame, with what its label was if that was changed.

    at: task and instance. truth: the tasks as they were. below: more lines under the label.
    """
    pixels = shown.inputs[at].movedim(0, -1).clamp(0, 1).numpy()
    grey = pixels.shape[-1] == 1
    axis.imshow(pixels[..., 0] if grey else pixels, cmap="gray" if grey else None, vmin=0, vmax=1)
    text = said_label(shown, truth, marked, at)
    axis.set_title("\n".join((text, *below)), fontsize=8, pad=3, color=RED if marked else "black")
    axis.set_axis_off()
    if marked:
        axis.set_axis_on()
        axis.set(xticks=[], yticks=[])
        for spine in axis.spines.values():
            spine.set(visible=True, color=RED, linewidth=2.5)


def said_label(shown: Batch, truth: Batch, marked: bool, at: tuple[int, int]) -> str:
    """An instance's label, and what it was where that was changed."""
    label, was = int(shown.targets[at]), int(truth.targets[at])
    if label != was:
        return f"{label}, was {was}"
    return f"{label}, changed" if marked else f"{label}"


def draw_curve(axis: Axes, tasks: TaskSet, clean: TaskSet, row: int, scale: float = 1.0) -> None:
    """A task's points over a line through them as they were; corrupted ones are ringed, and tied to where they were.

    scale: of the markers.
    """
    points = torch.cat([points_of(half, row) for half in (clean.support, clean.query)])
    axis.plot(*points[points[:, 0].argsort()].T.numpy(), color="#bbbbbb", lw=1.2, zorder=0)
    for half, marker, colour in zip(HALVES, "o^", (COLOURS[0], COLOURS[2]), strict=True):
        now, before = (points_of(getattr(some, half), row) for some in (tasks, clean))
        axis.plot(*now.T.numpy(), marker, color=colour, ms=6 * scale, label=half)
        marks = getattr(tasks, f"corrupted_{half}")[row]
        if marks.any():
            axis.plot(*torch.stack([before[marks], now[marks]]).permute(2, 0, 1).numpy(), color=RED, lw=0.8)
            ring = {"mfc": "none", "mec": RED, "ms": 12 * scale, "mew": 1.8 * scale}
            axis.plot(*now[marks].T.numpy(), "o", label="corrupted", **ring)
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(color="#eeeeee")


def share_legend(figure: Figure, axes: Iterable[Axes]) -> None:
    """One legend for all axes, below them."""
    found = [axis.get_legend_handles_labels() for axis in axes]
    entries = {label: handle for handles, labels in found for handle, label in zip(handles, labels, strict=True)}
    figure.legend(list(entries.values()), list(entries), loc="outside lower center", ncols=4, frameon=False)


def points_of(half: Batch, row: int) -> Tensor:
    """[n, 2]: input and first target of a task's instances."""
    return torch.stack([half.inputs[row].flatten(), half.targets[row][:, 0]], dim=1)

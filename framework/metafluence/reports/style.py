"""What all figures share: colours, markers, an empty pair of axes, and how a figure becomes a file."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

# Okabe and Ito's palette, which colour-blind readers can tell apart.
COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999999"]
MARKERS = ["o", "s", "^", "D", "v", "P", "X", "*"]
RED = "#C0262D"
"""Of what was corrupted."""


def single() -> tuple[Figure, Axes]:
    """A figure with one pair of axes, narrow enough that its text can be read on a phone."""
    figure = Figure(figsize=(4.8, 4.0), layout="constrained")
    axis = figure.subplots()
    axis.spines[["top", "right"]].set_visible(False)
    return figure, axis


def line(i: int) -> dict[str, Any]:
    """The look of the i-th line: colours, then dashes, tell them apart."""
    return {"color": COLOURS[i % 8], "lw": 1.7, "ls": ["-", "--", ":"][i // 8 % 3]}


def legend(figure: Figure, axes: Axes | Sequence[Axes], title: str | None = None) -> None:
    """A legend below the axes, each name once, in as many columns as its names leave room for; the figure grows by its
    lines.
    """
    entries: dict[str, Any] = {}
    for axis in [axes] if isinstance(axes, Axes) else axes:
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
            entries.setdefault(label, handle)
    handles, labels = list(entries.values()), list(entries)
    if not labels:
        return
    width, height = figure.get_size_inches()
    columns = max(1, int(width // (0.42 + 0.062 * max(len(label) for label in labels))))
    figure.set_size_inches(width, height + 0.17 * (-(-len(labels) // columns) + (title is not None)))
    figure.legend(
        handles, labels, loc="outside lower center", ncols=columns, fontsize=8, frameon=False, title=title,
        title_fontsize=8, handlelength=1.6, columnspacing=1.2,
    )  # fmt: skip


def png(figure: Figure) -> bytes:
    """A figure as the bytes of a PNG file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150)
    return buffer.getvalue()

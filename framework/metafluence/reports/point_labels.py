"""Names beside points, where they overlap neither each other nor the points."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from textwrap import fill

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.transforms import Bbox
from numpy.typing import NDArray

GAP = 7.0
"""Points between a name and its point."""
WIDE = 26
"""Letters past which a name goes on in another line."""

Place = tuple[float, float]


def label_points(
    figure: Figure, axis: Axes, points: Sequence[Place], names: Sequence[str], others: Sequence[Place] = ()
) -> None:
    """Write each name beside its point, at the place that hides least of all points, the line through those named,
    and the names before.

    others: points without names. Call it when everything else is drawn: it lays the figure out to measure.
    """
    figure.draw_without_rendering()
    inside = axis.get_window_extent()
    unit = figure.dpi / 72
    taken = [_square(axis.transData.transform(p), 4 * unit) for p in [*points, *others]]
    for start, end in pairwise(axis.transData.transform(p) for p in points):
        taken += [_square(start + share * (end - start), unit) for share in np.linspace(0, 1, 40)]
    for point, name in zip(points, names, strict=True):
        tried, said = [], fill(name, WIDE, break_long_words=False, break_on_hyphens=False)
        for reach in (1.0, 1.9, 2.8):
            for x, y in ((1, 0), (-1, 0), (0, 1), (0, -1), (0.8, 0.8), (-0.8, 0.8), (0.8, -0.8), (-0.8, -0.8)):
                text = axis.annotate(
                    said, point, (x * GAP * reach, y * GAP * reach), textcoords="offset points", fontsize=8, zorder=4,
                    ha="left" if x > 0 else "right" if x < 0 else "center",
                    va="bottom" if y > 0 else "top" if y < 0 else "center",
                )  # fmt: skip
                box = text.get_window_extent()
                hidden = sum(_common(box, other) for other in taken)
                hidden += 4 * (box.width * box.height - _common(box, inside))  # what the frame would cut off
                tried.append((hidden, reach, text, box))
        _, reach, chosen, box = min(tried, key=lambda t: t[0])
        for *_, text, _ in tried:
            if text is not chosen:
                text.remove()
        if reach > 1:
            leader = {"arrowstyle": "-", "color": "#999999", "lw": 0.7, "shrinkA": 0, "shrinkB": 4}
            axis.annotate("", point, chosen.get_position(), textcoords="offset points", arrowprops=leader)
        chosen.set(in_layout=False, path_effects=[withStroke(linewidth=2, foreground="white")])
        taken.append(box)


def _square(middle: NDArray[np.float64], half: float) -> Bbox:
    return Bbox([middle - half, middle + half])


def _common(a: Bbox, b: Bbox) -> float:
    """The area in which two boxes overlap."""
    both = Bbox.intersection(a, b)
    return 0.0 if both is None else both.width * both.height

"""The figure of corrupted items found against items inspected."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from metafluence.reports import Group
from metafluence.reports.figures.panels import Curve, corrupted_share, draw_panels
from metafluence.studies import Line, Outcome
from metafluence.tasks import ITEM_NAMES, Level


def items_found(groups: Sequence[Group], level: Level) -> Figure | None:
    """Share of the corrupted items found against share inspected, lowest score first; None where none is corrupted."""

    def curve(one: Outcome, line: Line) -> Curve | None:
        return (np.linspace(0, 1, len(line.found)), line.found.numpy()) if len(line.found) else None

    def mark(axis: Axes, group: Group) -> None:
        share = corrupted_share(group, level)
        axis.plot([0, share, 1], [0, 1, 1], color="#bbbbbb", lw=1, ls=":", label="perfect")
        axis.plot([0, 1], [0, 1], color="#bbbbbb", lw=1, ls="--", label="chance")
        axis.yaxis.set_major_formatter(PercentFormatter(1))

    titles = (f"share of {ITEM_NAMES[level]} inspected, lowest score first", "share of the corrupted found")
    return draw_panels(groups, level, curve, titles, mark, (0, 1))

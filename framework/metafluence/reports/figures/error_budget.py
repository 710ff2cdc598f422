"""The figure of the error budget: errors of the predicted parameter change by source."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from metafluence.evaluation import SOURCES, Budget, run_name
from metafluence.reports import COLOURS, in_figure


def error_budget(budgets: Sequence[Budget]) -> Figure | None:
    """Errors of Δλ by source, stacked, one panel per level; a diamond marks the whole error."""
    done = [b for b in budgets if b.status == "ok"]
    levels = list(dict.fromkeys(b.level for b in done))
    if not done:
        return None
    rows = [[b for b in done if b.level == level] for level in levels]
    heights = [len(r) + 0.6 for r in rows]
    figure = Figure(figsize=(5.4, 1.5 + 0.36 * sum(heights)), layout="constrained")
    axes = figure.subplots(len(levels), 1, squeeze=False, height_ratios=heights, sharex=True)[:, 0]
    for axis, level, some in zip(axes, levels, rows, strict=True):
        names = [_two_lines(in_figure(run_name(b.method, b.solver))) for b in some]
        places = np.arange(len(some))
        start = np.zeros(len(some))
        for colour, source in zip(COLOURS, SOURCES, strict=False):
            widths = np.nan_to_num([getattr(b, source) for b in some])  # NaN where there is no such source
            axis.barh(places, widths, left=start, color=colour, height=0.62, label=source.replace("_", " "))
            start += widths
        axis.plot([b.total for b in some], places, "D", color="black", ms=5, label="whole error")
        axis.set_yticks(places, names)
        axis.invert_yaxis()
        axis.tick_params(labelsize=8)
        axis.xaxis.set_major_formatter(PercentFormatter(1))
        axis.set_title(f"{level} level", loc="left", fontsize=10)
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(axis="x", color="#eeeeee")
        axis.set_axisbelow(True)
        axis.margins(x=0.04)
    axes[-1].set_xlabel("error of Δλ / length of the true Δλ, medians")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=8, frameon=False)
    return figure


def _two_lines(name: str) -> str:
    """A long name on two lines, cut after its first word."""
    return name.replace(" ", "\n", 1) if len(name) > 18 else name

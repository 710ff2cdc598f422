"""Maps of methods and variations: a rank agreement of every method in every variation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from metafluence.reports import BROAD, NOTHING, Group, compared, in_figure, mean, named, words_of
from metafluence.reports.figures.panels import all_methods
from metafluence.tasks import Level

MEASURES = {"spearman": "Spearman", "lds": "LDS"}


def heat_map(groups: Sequence[Group], level: Level, field: Literal["spearman", "lds"] = "spearman") -> Figure | None:
    """The mean of a field for every method in every variation, over the seeds that all methods have there."""
    names = all_methods(groups, level)
    found = [compared(group, level, field)[1] for group in groups]
    table = np.array([[mean(known.get(method, ())).value for known in found] for method in names])
    if len(groups) < 2 or not np.isfinite(table).any():
        return None
    width = 2.4 + 1.25 * len(groups)
    if width > 5:  # no longer to be read on a phone, if it is not scrolled there
        width = max(width, 1.01 * BROAD)
    figure = Figure(figsize=(width, 1.6 + 0.36 * len(names)), layout="constrained")
    axis = figure.subplots()
    axis.imshow(table, cmap="viridis", norm=Normalize(-0.2, 1), aspect="auto")
    axis.set_yticks(range(len(names)), [in_figure(named(method)) for method in names], fontsize=8)
    axis.set_xticks(range(len(groups)), [in_figure(g.label.replace(", ", "\n")) for g in groups], fontsize=8)
    for (row, column), value in np.ndenumerate(table):
        text = NOTHING if np.isnan(value) else f"{value:.2f}"
        dark = np.isfinite(value) and value < 0.6
        axis.text(column, row, text, ha="center", va="center", fontsize=8, color="white" if dark else "black")
    axis.set_title(f"{MEASURES[field]} with {words_of(groups).name}", fontsize=10)
    return figure

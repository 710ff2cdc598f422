"""The figure of removal curves: test quality after retraining without ever more of the items of lowest score."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from metafluence.reports import Group, mean, words_of
from metafluence.reports.figures.panels import Curve, corrupted_share, draw_panels
from metafluence.studies import Line, Outcome
from metafluence.tasks import ITEM_NAMES, Level


def removal_curves(groups: Sequence[Group], level: Level) -> Figure | None:
    """Test accuracy (loss, where any targets are real) after retraining without ever more of the items scored lowest.

    None where no study removes several shares.
    """
    real = any(group.outcomes[0].real for group in groups)
    what = "loss" if real else "accuracy"

    def curve(one: Outcome, line: Line) -> Curve | None:
        side = one.sides[level]
        if not len(line.curve) == len(side.removed) > 1:
            return None
        order = np.argsort(side.removed)
        after = getattr(line.curve, f"{what}_retrained").numpy()[order]
        return np.append(0, np.array(side.removed)[order] / side.items), np.append(getattr(one.full, what), after)

    def mark(axis: Axes, group: Group) -> None:
        clean = mean(getattr(one.sides[level].clean, what) for one in group.outcomes)
        if clean.n:
            share = corrupted_share(group, level)
            axis.plot([share], [clean.value], marker="*", ms=11, color="#777777", ls="", label="exactly the corrupted")

    titles = (
        f"share of {ITEM_NAMES[level]} removed, lowest score first",
        f"test {what} after {words_of(groups).short}",
    )
    return draw_panels(groups, level, curve, titles, mark, (-np.inf, np.inf) if real else (0, 1))

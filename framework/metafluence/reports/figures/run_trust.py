"""The figure of trust in a run: its floor, random sets predicted and replayed, and its adjoint."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib import ticker
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from metafluence.evaluation import CHANGES, FLOOR, Certificate, RunTrust
from metafluence.reports import COLOURS
from metafluence.tasks import Level


def trust_figure(certificates: Sequence[Certificate], level: Level) -> Figure | None:
    """What `run_trust` tried at a level; None where nothing was tried."""
    tried = [c.trust for c in certificates if c.level == level and c.trust is not None and c.trust.moved]
    if not tried:
        return None
    figure = Figure(figsize=(13.5, 3.8), layout="constrained")
    floor, sets, growth = figure.subplots(1, 3)
    _floor(floor, tried[0])
    _sets(sets, tried[0])
    growth.plot(tried[0].adjoint_steps, tried[0].adjoint, color=COLOURS[2])
    wide = max(tried[0].adjoint) > 30 * min(tried[0].adjoint)
    growth.set(
        yscale="log" if wide else "linear",
        xlabel="step t",
        ylabel="‖d loss / dλ_t‖",
        title=f"growth {tried[0].growth:.3g}",
    )
    for axis in (floor, sets, growth):
        axis.title.set_fontsize(10)
        axis.grid(color="#eeeeee")
        axis.spines[["top", "right"]].set_visible(False)
    return figure


def _floor(axis: Axes, tried: RunTrust) -> None:
    axis.plot(CHANGES, tried.moved, color=COLOURS[0], marker="o", ms=5)
    axis.axhline(1, color="#999999", ls="--", lw=1)
    axis.plot([CHANGES[-2]], [FLOOR], color="#cc3333", marker="_", ms=22, mew=2)
    axis.set(xscale="log", yscale="log", xlabel="h", ylabel="move at h / (h · move at 1)")
    low, high = axis.get_ylim()
    axis.set_ylim(min(low, 0.5), max(high, 5))
    axis.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5) if high < 100 else (1,)))
    axis.yaxis.set_major_formatter(ticker.FormatStrFormatter("%g"))
    axis.yaxis.set_minor_formatter(ticker.NullFormatter())
    axis.set_title(f"metasmoothness {tried.metasmoothness:.2f}")


def _sets(axis: Axes, tried: RunTrust) -> None:
    both = np.array([tried.true, tried.predicted])
    axis.axline((both.mean(), both.mean()), slope=1, color="#999999", lw=1)
    axis.scatter(*both, color=COLOURS[1], s=28)
    axis.set(xlabel="loss change by replay (nats)", ylabel="predicted (nats)")
    axis.set_title(f"sets left out: Spearman {tried.order:.2f}, slope {tried.slope:.2f}")

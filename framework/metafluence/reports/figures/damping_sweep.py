"""The figure of a damping sweep."""

from __future__ import annotations

import math

import numpy as np
from matplotlib.figure import Figure

from metafluence.evaluation import DampingSweep
from metafluence.reports import COLOURS


def damping_figure(sweep: DampingSweep) -> Figure:
    """Against the damping: stability and fidelity of the ranking, the error of Δλ, and the solves' residuals."""
    frame = sweep.frame()
    known = bool(frame["spearman"].notna().any())
    figure = Figure(figsize=(13.5 if known else 9.2, 3.6), layout="constrained")
    axes = figure.subplots(1, 3 if known else 2)
    ranking, solves = axes[0], axes[-1]
    # A damping of 0 has no place on a logarithmic axis; it is drawn a step below the smallest other.
    shown = frame["damping"].to_numpy(copy=True)
    if shown[0] == 0:
        shown[0] = shown[1] ** 2 / shown[2] if len(shown) > 2 else shown[1] / 10
    ranking.plot(shown, frame["stability"], color="#999999", marker="o", ms=4, label="with the next smaller damping")
    ranking.set_ylabel("Spearman of the scores")
    if known:
        ranking.plot(shown, frame["spearman"], color=COLOURS[0], marker="s", ms=4, label=f"with {sweep.against}")
        axes[1].plot(shown, 100 * frame["change_error"], color=COLOURS[1], marker="^", ms=4)
        axes[1].set_ylabel("median error of Δλ (%)")
    residual = frame["residual"].clip(lower=1e-16)
    solves.plot(shown, residual, color=COLOURS[2], marker="v", ms=4, label="residual of the solve")
    positive = frame["smallest_eigenvalue"].where(frame["smallest_eigenvalue"] > 0)
    solves.plot(shown, positive, color="#999999", ls="--", label="smallest eigenvalue, where positive")
    failed = frame["status"].astype(bool).to_numpy()
    if failed.any():
        solves.scatter(shown[failed], residual[failed], s=90, facecolor="none", edgecolor="black", label="failed")
    solves.set(yscale="log")
    for axis in axes:
        axis.set(xscale="log", xlabel="damping")
        axis.grid(color="#eeeeee")
        axis.spines[["top", "right"]].set_visible(False)
        if axis is not axes[1] or not known:
            axis.legend(fontsize=8, frameon=False)
        if sweep.rows[0].damping == 0:
            ticks = [shown[0], *(t for t in 10.0 ** np.arange(-12, 13) if shown[1] <= t <= shown[-1])]
            axis.set_xticks(ticks, ["0", *(f"$10^{{{round(math.log10(t))}}}$" for t in ticks[1:])])
    return figure

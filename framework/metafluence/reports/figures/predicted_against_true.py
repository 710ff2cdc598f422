"""The figure of predicted against true changes of the validation loss."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from metafluence.evaluation import Run
from metafluence.reports import COLOURS, in_figure
from metafluence.studies import StudyResult
from metafluence.tasks import Level


def predicted_against_true(result: StudyResult, level: Level) -> Figure | None:
    """Scores against exactly retrained changes of the validation loss, one panel per method that predicts changes."""
    truth = result.evaluations[level].truth
    runs = [r for r in _distinct(result, level) if r.row.units == "loss_change" and not r.row.retrains]
    if truth is None or not truth.reliability.usable or not runs or not bool(truth.loss_change.any()):
        return None
    columns = min(2, len(runs))
    rows = -(-len(runs) // columns)
    figure = Figure(figsize=(0.4 + 2.4 * columns, 0.3 + 2.5 * rows), layout="constrained")
    axes = np.atleast_1d(figure.subplots(rows, columns, squeeze=False)).ravel()
    picked = [removal[0] for removal in truth.removals]
    true = truth.loss_change.numpy()
    power = int(np.floor(np.log10(max(np.abs(true).max(), 1e-300))))
    unit = f"($10^{{{power}}}$ nats)" if power else "(nats)"
    true = true / 10.0**power
    harmful = result.split.train.corrupted_items(level).numpy()[picked]
    for axis, run in zip(axes, runs, strict=False):
        predicted = run.scores.numpy()[picked] / 10.0**power
        low, high = min(true.min(), predicted.min()), max(true.max(), predicted.max())
        limits = (low - 0.06 * (high - low), high + 0.06 * (high - low))
        axis.plot(limits, limits, color="#bbbbbb", lw=1, zorder=0)
        axis.axhline(0, color="#e4e4e4", lw=1, zorder=-1)
        axis.axvline(0, color="#e4e4e4", lw=1, zorder=-1)
        axis.scatter(true[~harmful], predicted[~harmful], s=22, color=COLOURS[0], alpha=0.8, lw=0, label="clean")
        if harmful.any():
            axis.scatter(
                true[harmful], predicted[harmful], s=26, marker="s", color=COLOURS[1], alpha=0.85, lw=0,
                label="corrupted",
            )  # fmt: skip
        axis.set(xlim=limits, ylim=limits, aspect="equal")
        axis.set_title(in_figure(run.row.method, 30), fontsize=9)
        axis.tick_params(labelsize=8)
        axis.annotate(
            f"Spearman {run.row.spearman:.3f}\nslope {run.row.slope:.2f}", (0.04, 0.96), xycoords="axes fraction",
            va="top", fontsize=8,
        )  # fmt: skip
    for axis in axes[len(runs) :]:
        axis.set_visible(False)
    figure.supxlabel(f"true change of validation loss {unit}", fontsize=9)
    figure.supylabel(f"predicted change {unit}", fontsize=9)
    if harmful.any():
        axes[0].legend(loc="lower right", fontsize=8, frameon=False)
    return figure


def _distinct(result: StudyResult, level: Level) -> list[Run]:
    """One finished run per method: a second solver of the same method would lie on top of the first."""
    chosen: dict[str, Run] = {}
    for run in result.at(level):
        if run.row.status == "ok":
            chosen.setdefault(run.row.method, run)
    return list(chosen.values())

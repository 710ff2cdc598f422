"""The figures of a report. Each function returns a matplotlib figure, or None where there is nothing to draw."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from metafluence.metrics import detection
from metafluence.runs import Run
from metafluence.solver_figures import against_truncation, heat_maps
from metafluence.study import StudyResult

# Okabe and Ito's palette, which colour-blind readers can tell apart.
COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999999"]
MARKERS = ["o", "s", "^", "D", "v", "P", "X", "*"]


def draw(result: StudyResult) -> dict[str, Figure]:
    """All figures that this result has the data for, by name."""
    made = {
        "predicted-against-true": predicted_against_true(result),
        "tasks-found": tasks_found(result),
        "fidelity-against-runtime": fidelity_against_runtime(result),
        "inner-and-outer-solvers": heat_maps(result.grid),
        "against-truncation": against_truncation(result.grid),
    }
    return {name: figure for name, figure in made.items() if figure is not None}


def predicted_against_true(result: StudyResult) -> Figure | None:
    """Scores against exactly retrained changes of the validation loss, one panel per method that predicts changes."""
    truth = result.truth
    runs = [r for r in _distinct(result) if r.row.units == "loss_change" and r.row.method != "retrain"]
    if truth is None or not runs:
        return None
    columns = min(3, len(runs))
    rows = -(-len(runs) // columns)
    figure = Figure(figsize=(3.6 * columns, 3.5 * rows), layout="constrained")
    axes = np.atleast_1d(figure.subplots(rows, columns, squeeze=False)).ravel()
    picked = [removal[0] for removal in truth.removals]
    true = truth.loss_change.numpy()
    power = int(np.floor(np.log10(max(np.abs(true).max(), 1e-300))))
    unit = f"($10^{{{power}}}$ nats)" if power else "(nats)"
    true = true / 10.0**power
    harmful = result.split.train.corrupted.numpy()[picked]
    for axis, run in zip(axes, runs, strict=False):
        predicted = run.scores.numpy()[picked] / 10.0**power
        low, high = min(true.min(), predicted.min()), max(true.max(), predicted.max())
        limits = (low - 0.06 * (high - low), high + 0.06 * (high - low))
        axis.plot(limits, limits, color="#bbbbbb", lw=1, zorder=0)
        axis.axhline(0, color="#e4e4e4", lw=1, zorder=-1)
        axis.axvline(0, color="#e4e4e4", lw=1, zorder=-1)
        axis.scatter(true[~harmful], predicted[~harmful], s=22, color=COLOURS[0], alpha=0.8, lw=0, label="clean task")
        if harmful.any():
            axis.scatter(
                true[harmful], predicted[harmful], s=26, marker="s", color=COLOURS[1], alpha=0.85, lw=0,
                label="corrupted task",
            )  # fmt: skip
        axis.set(xlim=limits, ylim=limits, aspect="equal", title=run.row.method)
        axis.set_xlabel(f"true change of validation loss {unit}")
        axis.annotate(
            f"Spearman {run.row.spearman:.3f}\nslope {run.row.slope:.2f}", (0.04, 0.96), xycoords="axes fraction",
            va="top", fontsize=9,
        )  # fmt: skip
    for axis in axes[len(runs) :]:
        axis.set_visible(False)
    axes[0].set_ylabel(f"predicted change {unit}")
    if harmful.any():
        axes[0].legend(loc="lower right", fontsize=8, frameon=False)
    return figure


def tasks_found(result: StudyResult) -> Figure | None:
    """Share of the corrupted tasks found against share of tasks inspected, worst score first."""
    harmful = result.split.train.corrupted.numpy()
    if harmful.all() or not harmful.any():
        return None
    figure, axis = _single()
    count = len(harmful)
    share = np.arange(count + 1) / count
    ideal = np.minimum(np.arange(count + 1) / harmful.sum(), 1)
    axis.plot(share, ideal, color="#bbbbbb", lw=1, ls=":", label="perfect")
    axis.plot(share, share, color="#bbbbbb", lw=1, ls="--", label="chance")
    for i, run in enumerate(_distinct(result)):
        found = detection(run.scores.numpy(), harmful)
        assert found is not None
        axis.plot(share, found.found, color=COLOURS[i % 8], lw=1.7, label=f"{run.row.method} ({found.auroc:.2f})")
    axis.set(
        xlabel="tasks inspected, lowest score first",
        ylabel="corrupted tasks found",
        xlim=(0, 1),
        ylim=(0, 1.02),
    )
    axis.xaxis.set_major_formatter(PercentFormatter(1))
    axis.yaxis.set_major_formatter(PercentFormatter(1))
    axis.legend(title="method (AUROC)", fontsize=8, title_fontsize=8, frameon=False, loc="lower right")
    return figure


def fidelity_against_runtime(result: StudyResult) -> Figure | None:
    """Rank agreement with retraining against the time to score all tasks."""
    runs = [r for r in result.runs if r.row.status == "ok" and np.isfinite(r.row.spearman)]
    if not runs:
        return None
    figure, axis = _single()
    for i, run in enumerate(runs):
        row = run.row
        name = f"{row.method} ({row.solver})" if row.solver else row.method
        axis.scatter(
            max(row.seconds, 1e-4), row.spearman, color=COLOURS[i % 8], marker=MARKERS[i // 8 % 8 if i > 7 else i % 8],
            s=55, label=name, zorder=3,
        )  # fmt: skip
    axis.set_xscale("log")
    axis.set(xlabel="seconds to score all tasks", ylabel="Spearman with exact retraining")
    axis.grid(color="#eeeeee", zorder=0)
    figure.legend(loc="outside right upper", fontsize=8, frameon=False)
    return figure


def _single() -> tuple[Figure, Axes]:
    figure = Figure(figsize=(6.8, 4.2), layout="constrained")
    axis = figure.subplots()
    axis.spines[["top", "right"]].set_visible(False)
    return figure, axis


def _distinct(result: StudyResult) -> list[Run]:
    """One finished run per method: a second solver of the same method would lie on top of the first."""
    chosen: dict[str, Run] = {}
    for run in result.runs:
        if run.row.status == "ok":
            chosen.setdefault(run.row.method, run)
    return list(chosen.values())

"""The figures of a report. Each function returns a matplotlib figure, or None where there is nothing to draw."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from metafluence.evaluation import SOURCES, Budget, Row, Run, detection, pareto_front, run_name
from metafluence.reports import COLOURS, MARKERS, draw_grid, label_points, legend, line, single
from metafluence.studies import StudyResult
from metafluence.tasks import Level

NOUNS: dict[Level, str] = {"task": "task", "support": "support instance", "query": "query instance"}


def draw(result: StudyResult, level: Level) -> dict[str, Figure]:
    """All figures of one level that this result has the data for, by name."""
    made = {
        "predicted-against-true": predicted_against_true(result, level),
        "items-found": items_found(result, level),
        "removal-curves": removal_curves(result, level),
        "fidelity-against-runtime": fidelity_against_runtime(result, level),
    }
    return {name: figure for name, figure in made.items() if figure is not None}


def draw_overall(result: StudyResult) -> dict[str, Figure]:
    """The figures of the error budget and of the grid of solvers, by name."""
    made = {"error-budget": error_budget(result.budgets), **draw_grid(result.grid)}
    return {name: figure for name, figure in made.items() if figure is not None}


def predicted_against_true(result: StudyResult, level: Level) -> Figure | None:
    """Scores against exactly retrained changes of the validation loss, one panel per method that predicts changes."""
    truth = result.evaluations[level].truth
    runs = [r for r in _distinct(result, level) if r.row.units == "loss_change" and not r.row.retrains]
    if truth is None or not runs or not bool(truth.loss_change.any()):
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
        axis.set_title(run.row.method, fontsize=9)
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


def items_found(result: StudyResult, level: Level) -> Figure | None:
    """Share of the corrupted items found against share of items inspected, worst score first."""
    harmful = result.split.train.corrupted_items(level).numpy()
    if harmful.all() or not harmful.any():
        return None
    figure, axis = single()
    count = len(harmful)
    share = np.arange(count + 1) / count
    ideal = np.minimum(np.arange(count + 1) / harmful.sum(), 1)
    axis.plot(share, ideal, color="#bbbbbb", lw=1, ls=":", label="perfect")
    axis.plot(share, share, color="#bbbbbb", lw=1, ls="--", label="chance")
    for i, run in enumerate(_distinct(result, level)):
        found = detection(run.scores.numpy(), harmful)
        assert found is not None
        axis.plot(share, found.found, label=f"{run.row.method} ({found.auroc:.2f})", **line(i))
    axis.set(xlabel=f"share of {NOUNS[level]}s inspected, lowest score first", ylabel="share of the corrupted found")
    axis.xaxis.set_major_formatter(PercentFormatter(1))
    axis.yaxis.set_major_formatter(PercentFormatter(1))
    legend(figure, axis, "method (AUROC)")
    return figure


def removal_curves(result: StudyResult, level: Level) -> Figure | None:
    """Test loss after retraining without ever more items of lowest score, for studies that remove several shares."""
    bench = result.evaluations[level]
    runs = [r for r in _distinct(result, level) if np.isfinite(r.curve.loss_retrained.numpy()).any()]
    if len(bench.remove) < 2 or not runs:
        return None
    figure, axis = single()
    order = np.argsort(bench.remove)
    counts = np.concatenate([[0], np.array(bench.remove)[order]])
    for i, run in enumerate(runs):
        losses = np.concatenate([[result.full.loss], run.curve.loss_retrained.numpy()[order]])
        axis.plot(counts, losses, marker=MARKERS[i % 8], ms=4, label=run.row.method, **line(i))
    clean, corrupted = result.clean[level].loss, int(result.split.train.corrupted_items(level).sum())
    if np.isfinite(clean):
        axis.plot([corrupted], [clean], marker="*", ms=11, color="#777777", ls="", label="exactly the corrupted")
    axis.set(xlabel=f"{NOUNS[level]}s removed, lowest score first", ylabel="test loss after retraining (nats)")
    legend(figure, axis)
    return figure


def fidelity_against_runtime(result: StudyResult, level: Level) -> Figure | None:
    """Rank agreement with retraining against the time to score all items; the front is a line, its methods named."""
    rows = _timed(result, level)
    truth = result.evaluations[level].truth
    if not rows or truth is None:
        return None
    figure, axis = single()
    front = on_front(result, level)
    for i, row in enumerate(rows):
        axis.scatter(
            *_place(row), color=COLOURS[i % 8], marker=MARKERS[(i + i // 8) % 8], s=55, zorder=3,
            label=None if row in front else row.name,
        )  # fmt: skip
    axis.plot(*zip(*map(_place, front), strict=True), color="#555555", lw=1, zorder=2)
    if np.isfinite(truth.ceiling.spearman):
        label = "retraining from other seeds"
        axis.axhline(truth.ceiling.spearman, color="#777777", lw=1, ls="--", label=label, zorder=1)
        axis.axhspan(truth.ceiling.spearman_low, truth.ceiling.spearman_high, color="#777777", alpha=0.12, lw=0)
    axis.set_xscale("log")
    axis.margins(0.12, 0.1)
    axis.set(xlabel=f"seconds to score all {NOUNS[level]}s", ylabel="Spearman with exact retraining")
    axis.grid(color="#eeeeee", zorder=0)
    legend(figure, axis)
    others = [_place(row) for row in rows if row not in front]
    label_points(figure, axis, [_place(row) for row in front], [row.name for row in front], others)
    return figure


def on_front(result: StudyResult, level: Level) -> list[Row]:
    """The estimators to which no other is both as fast and as close to retraining in its ranks; the fastest first."""
    rows = [row for row in _timed(result, level) if not row.retrains]
    front = pareto_front(np.array([row.seconds for row in rows]), np.array([row.spearman for row in rows]))
    return [rows[i] for i in front]


def _timed(result: StudyResult, level: Level) -> list[Row]:
    return [r.row for r in result.at(level) if r.row.status == "ok" and np.isfinite(r.row.spearman)]


def _place(row: Row) -> tuple[float, float]:
    return max(row.seconds, 1e-4), row.spearman


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
        names = [_two_lines(run_name(b.method, b.solver)) for b in some]
        start = np.zeros(len(some))
        for colour, source in zip(COLOURS, SOURCES, strict=False):
            widths = np.nan_to_num([getattr(b, source) for b in some])  # NaN where there is no such source
            axis.barh(names, widths, left=start, color=colour, height=0.62, label=source.replace("_", " "))
            start += widths
        axis.plot([b.total for b in some], names, "D", color="black", ms=5, label="whole error")
        axis.invert_yaxis()
        axis.tick_params(labelsize=8)
        axis.xaxis.set_major_formatter(PercentFormatter(1))
        axis.set_title(f"{level} level", loc="left", fontsize=10)
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(axis="x", color="#eeeeee")
        axis.set_axisbelow(True)
    axes[-1].set_xlabel("error of Δλ / length of the true Δλ, medians")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=8, frameon=False)
    return figure


def _two_lines(name: str) -> str:
    """A long name on two lines, cut after its first word."""
    return name.replace(" ", "\n", 1) if len(name) > 18 else name


def _distinct(result: StudyResult, level: Level) -> list[Run]:
    """One finished run per method: a second solver of the same method would lie on top of the first."""
    chosen: dict[str, Run] = {}
    for run in result.at(level):
        if run.row.status == "ok":
            chosen.setdefault(run.row.method, run)
    return list(chosen.values())

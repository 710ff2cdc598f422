"""Figures over several variations and seeds: means as lines, 95 % intervals as bands."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, PercentFormatter

from metafluence.evaluation import pareto_front
from metafluence.reports import BROAD, COLOURS, MARKERS, NOTHING, label_points, legend, line as look, single
from metafluence.reports.comparison.seeds import Group, Method, lines, mean, mean_curve, methods, named, values
from metafluence.reports.study import NOUNS
from metafluence.tasks import Level

Curve = tuple[np.ndarray, np.ndarray]
"""Across and up, of one seed."""


def draw_level(groups: Sequence[Group], level: Level) -> dict[str, Figure]:
    """All figures of one level that there is something for, by name."""
    made = {
        "removal-curves": removal_curves(groups, level),
        "items-found": items_found(groups, level),
        "fidelity-against-runtime": fidelity_against_runtime(groups, level),
        "methods-and-variations": heat_map(groups, level),
    }
    return {name: figure for name, figure in made.items() if figure is not None}


def removal_curves(groups: Sequence[Group], level: Level) -> Figure | None:
    """Test accuracy (loss, where any targets are real) after retraining without ever more of the items scored lowest.

    None where no study removes several shares.
    """
    real = any(group.outcomes[0].real for group in groups)
    what = "loss" if real else "accuracy"

    def curves(group: Group, method: Method) -> list[Curve]:
        found = []
        for one, line in lines(group, level, method):
            side = one.sides[level]
            if len(line.curve) == len(side.removed) > 1:
                order = np.argsort(side.removed)
                across = np.array(side.removed)[order] / side.items
                found.append((across, getattr(line.curve, f"{what}_retrained").numpy()[order], getattr(one.full, what)))
        return [(np.append(0, across), np.append(start, after)) for across, after, start in found]

    def mark(axis: Axes, group: Group) -> None:
        clean = mean(getattr(one.sides[level].clean, what) for one in group.outcomes)
        if clean.n:
            share = _corrupted(group, level)
            axis.plot([share], [clean.value], marker="*", ms=11, color="#777777", ls="", label="exactly the corrupted")

    titles = (f"share of {NOUNS[level]}s removed, lowest score first", f"test {what} after retraining")
    return _panels(groups, level, curves, titles, mark, (-np.inf, np.inf) if real else (0, 1))


def items_found(groups: Sequence[Group], level: Level) -> Figure | None:
    """Share of the corrupted items found against share inspected, lowest score first; None where none is corrupted."""

    def curves(group: Group, method: Method) -> list[Curve]:
        found = [line.found.numpy() for _, line in lines(group, level, method) if len(line.found)]
        return [(np.linspace(0, 1, len(curve)), curve) for curve in found]

    def mark(axis: Axes, group: Group) -> None:
        share = _corrupted(group, level)
        axis.plot([0, share, 1], [0, 1, 1], color="#bbbbbb", lw=1, ls=":", label="perfect")
        axis.plot([0, 1], [0, 1], color="#bbbbbb", lw=1, ls="--", label="chance")
        axis.yaxis.set_major_formatter(PercentFormatter(1))

    titles = (f"share of {NOUNS[level]}s inspected, lowest score first", "share of the corrupted found")
    return _panels(groups, level, curves, titles, mark, (0, 1))


def fidelity_against_runtime(groups: Sequence[Group], level: Level) -> Figure | None:
    """Mean rank agreement with retraining, with its interval, against mean time; the Pareto front joined and named."""
    names = _all_methods(groups, level)
    drawn = [g for g in groups if any(mean(values(g, level, m, "spearman")).n for m in methods(g, level))]
    if not drawn:
        return None
    figure, axes = _grid(len(drawn))
    named_points = []
    for axis, group in zip(axes, drawn, strict=False):
        points, shown = [], []
        for method in methods(group, level):
            fidelity, time = (mean(values(group, level, method, field)) for field in ("spearman", "seconds"))
            if not fidelity.n:
                continue
            i = names.index(method)
            points.append((max(time.value, 1e-4), fidelity.value))
            shown.append(named(method))
            axis.errorbar(
                *points[-1], xerr=None, yerr=np.nan_to_num(fidelity.half), fmt=MARKERS[(i + i // 8) % 8], ms=7,
                color=COLOURS[i % 8], capsize=2, lw=1, label=named(method), zorder=3,
            )  # fmt: skip
        front = pareto_front(*np.array(points).T)
        axis.plot(*np.array(points)[front].T, color="#777777", lw=1, ls=":", label="Pareto front", zorder=1)
        axis.set(xscale="log", xlabel=f"seconds to score all {NOUNS[level]}s")
        times = np.log10([time for time, _ in points])
        axis.set_xlim(10 ** (np.floor(times.min()) - 0.15), 10 ** (np.ceil(times.max()) + 0.15))
        axis.xaxis.set_minor_formatter(NullFormatter())
        _title(axis, group)
        named_points.append((axis, [points[i] for i in front], [shown[i] for i in front], points))
    _finish(figure, axes, "Spearman with exact retraining", (-1, 1))
    for axis, points, shown, others in named_points:
        label_points(figure, axis, points, shown, others)
    return figure


def heat_map(groups: Sequence[Group], level: Level) -> Figure | None:
    """Mean Spearman of every method in every variation."""
    names = _all_methods(groups, level)
    table = np.array([[mean(values(group, level, method, "spearman")).value for group in groups] for method in names])
    if len(groups) < 2 or not np.isfinite(table).any():
        return None
    width = 2.4 + 1.25 * len(groups)
    if width > 5:  # no longer to be read on a phone, if it is not scrolled there
        width = max(width, 1.01 * BROAD)
    figure = Figure(figsize=(width, 1.6 + 0.36 * len(names)), layout="constrained")
    axis = figure.subplots()
    axis.imshow(table, cmap="viridis", norm=Normalize(-0.2, 1), aspect="auto")
    axis.set_yticks(range(len(names)), [named(method) for method in names], fontsize=8)
    axis.set_xticks(range(len(groups)), [g.label.replace(", ", "\n") for g in groups], fontsize=8)
    for (row, column), value in np.ndenumerate(table):
        text = NOTHING if np.isnan(value) else f"{value:.2f}"
        dark = np.isfinite(value) and value < 0.6
        axis.text(column, row, text, ha="center", va="center", fontsize=8, color="white" if dark else "black")
    axis.set_title("Spearman with exact retraining", fontsize=10)
    return figure


def _panels(
    groups: Sequence[Group],
    level: Level,
    curves: Callable[[Group, Method], list[Curve]],
    titles: tuple[str, str],
    mark: Callable[[Axes, Group], None],
    bounds: tuple[float, float],
) -> Figure | None:
    """A panel for each group that there are curves of, in each a line and a band a method."""
    names = _all_methods(groups, level)
    drawn: list[tuple[Group, dict[Method, list[Curve]]]] = []
    for group in groups:
        found = {method: _alike(curves(group, method)) for method in methods(group, level)}
        found = {method: some for method, some in found.items() if any(np.isfinite(c[1:]).any() for _, c in some)}
        if found:
            drawn.append((group, found))
    if not drawn:
        return None
    figure, axes = _grid(len(drawn))
    for axis, (group, found) in zip(axes, drawn, strict=False):
        for method, some in found.items():
            i = names.index(method)
            across = np.mean([x for x, _ in some], axis=0)
            middle, half = mean_curve([y for _, y in some])
            axis.plot(across, middle, label=named(method), **look(i))
            axis.fill_between(across, middle - half, middle + half, color=COLOURS[i % 8], alpha=0.08, lw=0)
        mark(axis, group)
        axis.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        axis.set_xlabel(titles[0])
        _title(axis, group)
    _finish(figure, axes, titles[1], bounds)
    return figure


def _alike(curves: list[Curve]) -> list[Curve]:
    """Those with as many points as the first."""
    return [curve for curve in curves if len(curve[1]) == len(curves[0][1])]


def _corrupted(group: Group, level: Level) -> float:
    """The share of the items that is corrupted, the mean over seeds."""
    return mean(one.sides[level].corrupted / one.sides[level].items for one in group.outcomes).value


def _grid(count: int) -> tuple[Figure, list[Axes]]:
    """One pair of axes that can be read on a phone, or several, two in a row."""
    if count == 1:
        figure, axis = single()
        axes = [axis]
    else:
        rows = -(-count // 2)
        figure = Figure(figsize=(9.2, 3.9 * rows), layout="constrained")
        axes = figure.subplots(rows, 2, squeeze=False, sharey=True).ravel().tolist()
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(color="#eeeeee", zorder=0)
    for axis in axes[count:]:
        axis.set_visible(False)
    return figure, axes


def _title(axis: Axes, group: Group) -> None:
    axis.set_title(group.label.replace(", ", ",\n") if len(group.label) > 45 else group.label, fontsize=9)


def _finish(figure: Figure, axes: Sequence[Axes], upwards: str, bounds: tuple[float, float]) -> None:
    """What all panels share: the axis upwards, no further than values can go, and the legend."""
    low, high = axes[0].get_ylim()
    margin = 0.04 * (min(high, bounds[1]) - max(low, bounds[0]))
    axes[0].set_ylim(max(low, bounds[0] - margin), min(high, bounds[1] + margin))
    for axis in axes[::2]:  # the first of each row
        axis.set_ylabel(upwards)
    legend(figure, axes)


def _all_methods(groups: Sequence[Group], level: Level) -> list[Method]:
    return list(dict.fromkeys(method for group in groups for method in methods(group, level)))

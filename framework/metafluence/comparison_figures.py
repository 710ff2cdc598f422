"""Figures over several variations and seeds: means as lines, 95 % intervals as bands."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from metafluence.aggregation import Group, Method, lines, mean, mean_curve, methods, named, values
from metafluence.figures import NOUNS
from metafluence.labels import label_points
from metafluence.metrics import pareto_front
from metafluence.palette import COLOURS, MARKERS
from metafluence.palette import line as look
from metafluence.tasks import Level


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
    """Test accuracy (loss, for real targets) after retraining without ever more of the items scored lowest."""
    real = groups[0].outcomes[0].real
    column, what = (3, "loss") if real else (2, "accuracy")
    side = groups[0].outcomes[0].sides[level]
    if len(side.removed) < 2:
        return None
    order = np.argsort(side.removed)
    across = np.concatenate([[0], np.array(side.removed)[order]]) / side.items

    def curves(group: Group, method: Method) -> list[np.ndarray]:
        found = []
        for one, line in lines(group, level, method):
            if len(line.curve) == len(order):
                found.append(np.concatenate([[getattr(one.full, what)], line.curve[:, column].numpy()[order]]))
        return found

    def mark(axis: Axes, group: Group) -> None:
        clean = mean(getattr(one.sides[level].clean, what) for one in group.outcomes)
        share = side.corrupted / side.items
        if clean.n:
            axis.plot([share], [clean.value], marker="*", ms=11, color="#777777", ls="", label="exactly the corrupted")

    titles = (f"share of {NOUNS[level]}s removed, lowest score first", f"test {what} after retraining")
    return _panels(groups, level, curves, across, titles, mark)


def items_found(groups: Sequence[Group], level: Level) -> Figure | None:
    """Share of the corrupted items found against share inspected, lowest score first."""
    first = [line.found for line in groups[0].outcomes[0].lines if line.row.level == level and len(line.found)]
    if not first:
        return None
    across = np.linspace(0, 1, len(first[0]))

    def curves(group: Group, method: Method) -> list[np.ndarray]:
        runs = lines(group, level, method)
        return [line.found.numpy() for _, line in runs if len(line.found) == len(across)]

    def mark(axis: Axes, group: Group) -> None:
        side = group.outcomes[0].sides[level]
        share = side.corrupted / side.items
        axis.plot([0, share, 1], [0, 1, 1], color="#bbbbbb", lw=1, ls=":", label="perfect")
        axis.plot([0, 1], [0, 1], color="#bbbbbb", lw=1, ls="--", label="chance")
        axis.yaxis.set_major_formatter(PercentFormatter(1))
        axis.set_ylim(-0.03, 1.03)

    titles = (f"share of {NOUNS[level]}s inspected, lowest score first", "share of the corrupted found")
    return _panels(groups, level, curves, across, titles, mark)


def fidelity_against_runtime(groups: Sequence[Group], level: Level) -> Figure | None:
    """Mean rank agreement with retraining, with its interval, against mean time; the Pareto front joined and named."""
    drawn = [g for g in groups if any(mean(values(g, level, m, "spearman")).n for m in methods(g, level))]
    if not drawn:
        return None
    figure, axes = _grid(len(drawn))
    named_points = []
    names = _all_methods(groups, level)
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
        axis.set(xscale="log", xlabel=f"seconds to score all {NOUNS[level]}s", title=group.label)
        named_points.append((axis, [points[i] for i in front], [shown[i] for i in front], points))
    axes[0].set_ylabel("Spearman with exact retraining")
    _legend(figure, axes)
    for axis, points, shown, others in named_points:
        label_points(figure, axis, points, shown, others)
    return figure


def heat_map(groups: Sequence[Group], level: Level) -> Figure | None:
    """Mean Spearman of every method in every variation."""
    names = _all_methods(groups, level)
    table = np.array([[mean(values(group, level, method, "spearman")).value for group in groups] for method in names])
    if len(groups) < 2 or not np.isfinite(table).any():
        return None
    figure = Figure(figsize=(3.2 + 1.25 * len(groups), 1.6 + 0.36 * len(names)), layout="constrained")
    axis = figure.subplots()
    axis.imshow(table, cmap="viridis", norm=Normalize(-0.2, 1), aspect="auto")
    axis.set_yticks(range(len(names)), [named(method) for method in names], fontsize=8)
    axis.set_xticks(range(len(groups)), [g.label.replace(", ", "\n") for g in groups], fontsize=8)
    for (row, column), value in np.ndenumerate(table):
        text = "–" if np.isnan(value) else f"{value:.2f}"
        dark = np.isfinite(value) and value < 0.6
        axis.text(column, row, text, ha="center", va="center", fontsize=8, color="white" if dark else "black")
    axis.set_title("Spearman with exact retraining", fontsize=10)
    return figure


def _panels(
    groups: Sequence[Group],
    level: Level,
    curves: Callable[[Group, Method], list[np.ndarray]],
    across: np.ndarray,
    titles: Method,
    mark: Callable[[Axes, Group], None],
) -> Figure | None:
    """A panel a group, in each a line and a band a method."""
    names = _all_methods(groups, level)
    figure, axes = _grid(len(groups))
    any_drawn = False
    for axis, group in zip(axes, groups, strict=False):
        for i, method in enumerate(names):
            found = curves(group, method)
            if not found or not np.isfinite(np.stack(found)[:, 1:]).any():
                continue
            any_drawn = True
            middle, half = mean_curve(found)
            axis.plot(across, middle, label=named(method), **look(i))
            axis.fill_between(across, middle - half, middle + half, color=COLOURS[i % 8], alpha=0.08, lw=0)
        mark(axis, group)
        axis.xaxis.set_major_formatter(PercentFormatter(1))
        axis.set(xlabel=titles[0], title=group.label)
    axes[0].set_ylabel(titles[1])
    _legend(figure, axes)
    return figure if any_drawn else None


def _grid(count: int) -> tuple[Figure, list[Axes]]:
    columns = min(3, count)
    rows = -(-count // columns)
    figure = Figure(figsize=(2.2 + 4.6 * columns, 4.2 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, sharey=True).ravel().tolist()
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(color="#eeeeee", zorder=0)
    for axis in axes[count:]:
        axis.set_visible(False)
    return figure, axes


def _legend(figure: Figure, axes: Sequence[Axes]) -> None:
    entries = {}
    for axis in axes:
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
            entries.setdefault(label, handle)
    figure.legend(list(entries.values()), list(entries), loc="outside right upper", fontsize=8, frameon=False)


def _all_methods(groups: Sequence[Group], level: Level) -> list[Method]:
    return list(dict.fromkeys(method for group in groups for method in methods(group, level)))

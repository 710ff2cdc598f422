"""The figure of fidelity against runtime: rank agreement with retraining, against the time to score all items."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from metafluence.evaluation import pareto_front
from metafluence.reports import (
    COLOURS,
    MARKERS,
    Group,
    Mean,
    Method,
    compared,
    in_figure,
    label_points,
    mean,
    named,
    retrains,
    values,
    words_of,
)
from metafluence.reports.figures.panels import all_methods, finish_panels, panel_axes, title_panel
from metafluence.tasks import ITEM_NAMES, Level

Point = tuple[float, float]


def fidelity_against_runtime(groups: Sequence[Group], level: Level) -> Figure | None:
    """Mean rank agreement with retraining, with its interval, against mean time; the Pareto front joined and named.

    None where nothing was retrained.
    """
    names = all_methods(groups, level)
    drawn = [group for group in groups if _fidelities(group, level)]
    if not drawn:
        return None
    figure, axes = panel_axes(len(drawn))
    fronts = []
    for axis, group in zip(axes, drawn, strict=False):
        found, front = _fidelities(group, level), on_front(group, level)
        places = {method: place for method, (place, _) in found.items()}
        for method, (_, fidelity) in found.items():
            i = names.index(method)
            beside = len(drawn) == 1 and method in front  # its name stands beside it, not in the legend
            axis.errorbar(
                *places[method], yerr=_bars(fidelity), fmt=MARKERS[(i + i // 8) % 8], ms=7, color=COLOURS[i % 8],
                capsize=2, lw=1, zorder=3, label=None if beside else in_figure(named(method)),
            )  # fmt: skip
        if front:
            joined = np.array([places[method] for method in front]).T
            axis.plot(*joined, color="#777777", lw=1, ls=":", label="Pareto front", zorder=1)
        _draw_ceiling(axis, group, level)
        axis.set(xscale="log", xlabel=f"seconds to score all {ITEM_NAMES[level]}")
        times = np.log10([time for time, _ in places.values()])
        axis.set_xlim(10 ** (np.floor(times.min()) - 0.15), 10 ** (np.ceil(times.max()) + 0.15))
        axis.xaxis.set_minor_formatter(NullFormatter())
        title_panel(axis, group)
        fronts.append((axis, [places[m] for m in front], [in_figure(named(m)) for m in front], list(places.values())))
    finish_panels(figure, axes, f"Spearman with {words_of(drawn).name}", (-1, 1))
    for axis, points, labels, others in fronts:
        label_points(figure, axis, points, labels, others)
    return figure


def on_front(group: Group, level: Level) -> list[Method]:
    """The estimators to which no other is both as fast and as close to retraining in its ranks; the fastest first."""
    found = _fidelities(group, level)
    known = [method for method in found if not retrains(group, level, method)]
    places = [found[method][0] for method in known]
    return [known[i] for i in pareto_front(np.array([x for x, _ in places]), np.array([y for _, y in places]))]


def _fidelities(group: Group, level: Level) -> dict[Method, tuple[Point, Mean]]:
    """Where each method stands, and its fidelity: means over the seeds that all methods have."""
    same, found = compared(group, level, "spearman")
    times = {method: mean(values(same, level, method, "seconds")).value for method in found}
    fidelities = {method: mean(known) for method, known in found.items()}
    return {method: ((max(times[method], 1e-4), known.value), known) for method, known in fidelities.items()}


def _bars(fidelity: Mean) -> np.ndarray | None:
    """Lengths of the error bar downwards and upwards [2, 1], inside -1 to 1; None where there is no interval."""
    if np.isnan(fidelity.half):
        return None
    return np.array([[min(fidelity.half, fidelity.value + 1)], [min(fidelity.half, 1 - fidelity.value)]])


def _draw_ceiling(axis: Axes, group: Group, level: Level) -> None:
    """How well retraining from other seeds agrees, as a line, and for one study its interval as a band."""
    ceilings = [one.sides[level].ceiling for one in compared(group, level, "spearman")[0].outcomes]
    agreed = mean(ceiling.spearman for ceiling in ceilings)
    if agreed.n:
        axis.axhline(agreed.value, color="#777777", lw=1, ls="--", label="retraining from other seeds", zorder=1)
        if len(group.outcomes) == 1:
            axis.axhspan(ceilings[0].spearman_low, ceilings[0].spearman_high, color="#777777", alpha=0.12, lw=0)

"""What the figures of several groups share: a panel for each group, in it a line for each method, a band if few."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from textwrap import wrap

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from metafluence.reports import (
    COLOURS,
    Group,
    Method,
    common_seeds,
    in_figure,
    legend,
    line,
    lines,
    mean,
    mean_curve,
    methods,
    named,
    single,
    with_seeds,
)
from metafluence.studies import Line, Outcome
from metafluence.tasks import Level

BANDS = 5
"""So many methods have bands; those of more would cover each other and the lines."""
Curve = tuple[np.ndarray, np.ndarray]
"""The x and y values of one seed."""


@dataclass(frozen=True)
class Panel:
    """A group with the seeds that are used, and its curves with these; what is left out.

    fewer: a method has curves with other seeds. left_out: methods without these seeds, in words.
    """

    group: Group
    curves: dict[Method, list[Curve]]
    fewer: bool
    left_out: str


def draw_panels(
    groups: Sequence[Group],
    level: Level,
    curve: Callable[[Outcome, Line], Curve | None],
    titles: tuple[str, str],
    mark: Callable[[Axes, Group], None],
    bounds: tuple[float, float],
) -> Figure | None:
    """Draw a panel for each group that has curves, each a mean over the seeds that the methods of a panel share.

    Where there are at most `BANDS` methods, each has a band; of more the median interval stands where it is
    widest.

    The y axis says where seeds are left out, the panel's title which methods are.

    Args:
        groups: The groups; one without a finite curve has no panel.
        level: Which items.
        curve: The curve of a run; None where it has none.
        titles: Of the x and of the y axis.
        mark: Draws what is no method's into the panel of a group, which is given with the seeds that are used.
        bounds: The smallest and the largest possible y value.

    Returns:
        The figure, or None where no group has curves.
    """
    names = all_methods(groups, level)
    every = [_on_same_seeds(group, level, curve) for group in groups]
    drawn = [one for one in every if one.curves]
    if not drawn:
        return None
    figure, axes = panel_axes(len(drawn))
    banded = max(len(one.curves) for one in drawn) <= BANDS
    for axis, one in zip(axes, drawn, strict=False):
        every_one = []
        for method, some in one.curves.items():
            i = names.index(method)
            across = np.mean([x for x, _ in some], axis=0)
            middle, half = mean_curve([y for _, y in some])
            axis.plot(across, middle, label=in_figure(named(method)), **line(i))
            if banded:
                low, high = (np.clip(middle + sign * half, *bounds) for sign in (-1, 1))
                axis.fill_between(across, low, high, color=COLOURS[i % 8], alpha=0.08, lw=0)
            every_one.append((across, middle, half))
        if not banded:
            _median_interval(axis, np.median(every_one, axis=0), bounds)
        mark(axis, one.group)
        axis.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        axis.set_xlabel(titles[0])
        title_panel(axis, one.group, one.left_out)
    fewer = "\n(means over the seeds that all methods have)" if any(one.fewer for one in drawn) else ""
    finish_panels(figure, axes, titles[1] + fewer, bounds)
    return figure


def _median_interval(axis: Axes, medians: np.ndarray, bounds: tuple[float, float]) -> None:
    """Draw the median interval of all methods where it is widest; none of fewer than three seeds.

    medians: [3, points], over methods, of x, y and half the interval.
    """
    if not np.isfinite(medians[2]).any():
        return
    where, middle, half = medians[:, np.nanargmax(medians[2])]
    low, high = (np.clip(middle + sign * half, *bounds) for sign in (-1, 1))
    axis.errorbar(
        [where], [middle], [[middle - low], [high - middle]],
        color="#777777", capsize=3, lw=1, ls="", label="95 % interval, median of methods",
    )  # fmt: skip


def corrupted_share(group: Group, level: Level) -> float:
    """The share of the items that is corrupted, the mean over seeds."""
    return mean(one.sides[level].corrupted / one.sides[level].items for one in group.outcomes).value


def panel_axes(count: int) -> tuple[Figure, list[Axes]]:
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


def title_panel(axis: Axes, group: Group, note: str = "") -> None:
    """Write what the group is of above its panel, and a note below that; nothing where there is neither."""
    label = group.label.replace(", ", ",\n") if len(group.label) > 45 else group.label
    axis.set_title(in_figure("\n".join([label] * bool(label) + wrap(note, 55))), fontsize=9)


def finish_panels(figure: Figure, axes: Sequence[Axes], y_title: str, bounds: tuple[float, float]) -> None:
    """Draw what all panels share: the y axis, no further than values can go, and the legend."""
    low, high = axes[0].get_ylim()
    margin = 0.04 * (min(high, bounds[1]) - max(low, bounds[0]))
    axes[0].set_ylim(max(low, bounds[0] - margin), min(high, bounds[1] + margin))
    for axis in axes[::2]:  # the first of each row
        axis.set_ylabel(y_title)
    legend(figure, axes)


def all_methods(groups: Sequence[Group], level: Level) -> list[Method]:
    """The methods of all groups, each once: a method's place decides its colour in every panel."""
    return list(dict.fromkeys(method for group in groups for method in methods(group, level)))


def _on_same_seeds(group: Group, level: Level, curve: Callable[[Outcome, Line], Curve | None]) -> Panel:
    """What a group's panel shows: the curves with the seeds that all methods have.

    Curves with other numbers of points than the first cannot be averaged with it and do not count.
    """
    every = {
        method: {one.id: found for one, run in lines(group, level, method) if (found := curve(one, run)) is not None}
        for method in methods(group, level)
    }
    points = next((len(y) for own in every.values() for _, y in own.values()), 0)
    every = {
        method: {id: (x, y) for id, (x, y) in own.items() if len(y) == points and np.isfinite(y[1:]).any()}
        for method, own in every.items()
    }
    every = {method: own for method, own in every.items() if own}
    seeds = common_seeds(np.array([one.id in own for one in group.outcomes]) for own in every.values())
    used = [group.outcomes[i].id for i in seeds]
    found = {method: [own[id] for id in used] for method, own in every.items() if own.keys() >= set(used)}
    others = ", ".join(named(method) for method in every if method not in found)
    left_out = f"{others} left out: no seed in common" if others else ""
    fewer = any(len(own) > len(used) for own in every.values()) or bool(others)
    return Panel(with_seeds(group, seeds) if seeds else group, _different(found), fewer, left_out)


def _different(found: dict[Method, list[Curve]]) -> dict[Method, list[Curve]]:
    """Without methods whose other solver has the very same curves: they would lie on top of each other."""
    kept: dict[Method, list[Curve]] = {}
    for method, some in found.items():
        twins = [kept[other] for other in kept if other[0] == method[0] and len(kept[other]) == len(some)]
        if not any(all(_same(a, b) for a, b in zip(twin, some, strict=True)) for twin in twins):
            kept[method] = some
    return kept


def _same(a: Curve, b: Curve) -> bool:
    return len(a[1]) == len(b[1]) and np.array_equal(a[1], b[1], equal_nan=True)

"""The figures of the grid of inner and outer solvers: maps of all pairs, and accuracy against steps."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from functools import partial

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from metafluence.evaluation import Cell
from metafluence.reports import COLOURS, MARKERS, in_figure


def grid_figures(cells: tuple[Cell, ...]) -> dict[str, Callable[[], Figure | None]]:
    """What draws each figure of a grid, by name; it gives None where there is nothing to draw."""
    drawn = {"inner-and-outer-solvers": heat_maps, "against-truncation": against_truncation}
    return {name: partial(draw, cells) for name, draw in drawn.items()}


def heat_maps(cells: tuple[Cell, ...]) -> Figure | None:
    """Fidelity and time of every pair: inner solvers down, outer ones across; pairs that failed are hatched."""
    if not cells:
        return None
    inner, outer = (list(dict.fromkeys(getattr(c, which) for c in cells)) for which in ("inner", "outer"))
    done = [c for c in cells if c.status == "ok"]
    ranked = any(not math.isnan(c.spearman) for c in done)
    figure = Figure(figsize=(max(6.0, 2.0 + 0.95 * len(outer)), 2.6 + 1.1 * len(inner)), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True)
    first = "Spearman with the truth, and (colour) " if ranked else ""
    title = f"{first}error of the scores by the solvers"
    _map(above, cells, inner, outer, lambda c: max(c.error, 1e-8), LogNorm(1e-8, 1), "viridis_r", title, _fidelity)
    seconds = [c.seconds for c in done] or [1.0]
    span = LogNorm(min(seconds) * 0.9, max(seconds) * 1.1)
    _map(below, cells, inner, outer, lambda c: c.seconds, span, "cividis_r", "seconds to score all tasks", _seconds)
    for axis in (above, below):
        axis.set_ylabel("inner solver")
    below.set_xlabel("outer solver")
    return figure


def against_truncation(cells: tuple[Cell, ...]) -> Figure | None:
    """Error and time against a solver's number of steps J, for solvers that the grid has with three or more."""
    series = _series(cells)
    if not series:
        return None
    figure = Figure(figsize=(9.6, 3.9), layout="constrained")
    left, right = figure.subplots(1, 2)
    for i, (name, points) in enumerate(series.items()):
        steps, found = [n for n, _ in points], [c for _, c in points]
        look = {"marker": MARKERS[i % len(MARKERS)], "color": COLOURS[i % len(COLOURS)], "lw": 1.5}
        left.plot(steps, [c.error for c in found], label=in_figure(name), **look)
        right.plot(steps, [c.seconds for c in found], label=in_figure(name), **look)
    ticks = sorted({n for points in series.values() for n, _ in points})
    for axis, what in ((left, "error of the scores by the solvers"), (right, "seconds to score all tasks")):
        axis.set(xscale="log", yscale="log", xlabel="steps (J)", ylabel=what)
        axis.set_xticks(ticks, [f"{t:g}" for t in ticks])
        axis.set_xticks([], minor=True)
        axis.grid(color="#eeeeee")
        axis.spines[["top", "right"]].set_visible(False)
    right.legend(fontsize=8, frameon=False)
    return figure


def _map(
    axis: Axes,
    cells: tuple[Cell, ...],
    inner: list[str],
    outer: list[str],
    value: Callable[[Cell], float],
    scale: Normalize,
    colours: str,
    title: str,
    text: Callable[[Cell], str],
) -> None:
    image = np.full((len(inner), len(outer)), np.nan)
    for cell in cells:
        if cell.status == "ok":
            image[inner.index(cell.inner), outer.index(cell.outer)] = value(cell)
    drawn = axis.imshow(image, norm=scale, cmap=colours, aspect="auto")
    for cell in cells:
        y, x = inner.index(cell.inner), outer.index(cell.outer)
        if cell.status != "ok":
            corner = (x - 0.5, y - 0.5)
            axis.add_patch(Rectangle(corner, 1, 1, facecolor="#f2f2f2", edgecolor="#c9c9c9", hatch="///", lw=0))
            axis.text(x, y, "failed", ha="center", va="center", fontsize=8, color="#555555")
            continue
        red, green, blue, _ = drawn.to_rgba(value(cell))  # type: ignore[misc]
        dark = 0.3 * red + 0.59 * green + 0.11 * blue < 0.55
        axis.text(x, y, text(cell), ha="center", va="center", fontsize=8, color="white" if dark else "black")
    axis.set_xticks(range(len(outer)), [_wrapped(name) for name in outer], fontsize=8)
    axis.set_yticks(range(len(inner)), [_wrapped(name) for name in inner], fontsize=8)
    axis.set_title(title, fontsize=10)
    axis.tick_params(length=0)


def _series(cells: tuple[Cell, ...]) -> dict[str, list[tuple[float, Cell]]]:
    """Cells that differ in one solver's number of steps alone, by name; beside the first solver of the other kind."""
    found: dict[str, list[tuple[float, Cell]]] = {}
    for which, other in (("inner", "outer"), ("outer", "inner")):
        for cell in cells:
            stepped = re.fullmatch(r"(\S+) (?:truncation|iterations|max_iterations)=(\d+)(.*)", getattr(cell, which))
            if stepped is None or cell.status != "ok" or getattr(cell, other) != getattr(cells[0], other):
                continue
            name = f"{which} {stepped[1]}{stepped[3]} ({other} {getattr(cell, other)})"
            found.setdefault(name, []).append((float(stepped[2]), cell))
    return {n: sorted(points, key=lambda p: p[0]) for n, points in found.items() if len(points) >= 3}


def _wrapped(name: str) -> str:
    """A label with one part a line, and long parts on two."""
    parts = in_figure(name).split(" ")
    return "\n".join(part if len(part) < 15 else part.replace("=", "=\n") for part in parts)


def _fidelity(cell: Cell) -> str:
    return _error(cell) if math.isnan(cell.spearman) else f"{cell.spearman:.3f}\n({_error(cell)})"


def _error(cell: Cell) -> str:
    return f"{cell.error:.0e}" if cell.error < 1e-3 else f"{100 * cell.error:.1f} %"


def _seconds(cell: Cell) -> str:
    return f"{cell.seconds:.2g}" if cell.seconds < 100 else f"{cell.seconds:.0f}"

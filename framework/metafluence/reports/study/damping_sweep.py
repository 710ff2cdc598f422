"""A damping sweep for people: its rows as text, a CSV and a figure."""

from __future__ import annotations

import math
from pathlib import Path

from metafluence.evaluation import Damped, DampingSweep
from metafluence.reports import png, write_csv
from metafluence.reports.figures import damping_figure
from metafluence.runtime import write_atomically


def sweep_cells(row: Damped) -> list[str]:
    """A row of a damping sweep as text: damping, eigenvalue, residual, stability, Spearman, error of Δλ, status."""

    def number(value: float, form: str) -> str:
        return "–" if math.isnan(value) else format(value, form)

    error = "–" if math.isnan(row.change_error) else f"{100 * row.change_error:.1f} %"
    return [
        f"{row.damping:.3g}",
        f"{row.smallest_eigenvalue:.3g}",
        number(row.residual, ".0e"),
        number(row.stability, ".3f"),
        number(row.spearman, ".3f"),
        error,
        row.status,
    ]


def write_sweep(sweep: DampingSweep, folder: str | Path, name: str) -> Path:
    """Write the rows as NAME.csv and a figure as NAME.png. Returns the table's path."""
    write_atomically(Path(folder) / f"{name}.png", png(damping_figure(sweep)))
    path = Path(folder) / f"{name}.csv"
    write_csv(path, sweep.frame())
    return path

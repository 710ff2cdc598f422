"""Where errors come from in several variations: budgets by source and grids of solvers, as means over seeds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from metafluence.evaluation import SOURCES, Budget, Cell, run_name
from metafluence.reports import Group, Table, common_seeds, mean
from metafluence.sentences import alike
from metafluence.tasks import ITEM_NAMES, Level


def budget_table(groups: Sequence[Group]) -> Table | None:
    """The errors of Δλ by source, means over the seeds that all methods of a level have; None where none were split."""
    rows = []
    for group in groups:
        found: dict[tuple[Level, str, str], dict[str, Budget]] = {}
        for one in group.outcomes:
            for b in one.budgets:
                if b.status == "ok":
                    found.setdefault((b.level, b.method, b.solver), {})[one.id] = b
        for key, own in found.items():
            beside = [known for other, known in found.items() if other[0] == key[0]]
            seeds = common_seeds(np.array([one.id in known for one in group.outcomes]) for known in beside)
            same = [own[group.outcomes[i].id] for i in seeds if group.outcomes[i].id in own]
            parts = [mean(getattr(b, source) for b in same).text("%", (0, math.inf)) for source in (*SOURCES, "total")]
            rows.append((group.label, *key, *parts))
    names = ["variation", "level", "method", "solver", *(s.replace("_", " ") for s in SOURCES), "whole error"]
    if not rows:
        return None
    return Table("", tuple((name, name) for name in names), tuple(rows), words=(0, 1, 2, 3)).only_filled()


def budget_refusals(groups: Sequence[Group]) -> list[tuple[str, str]]:
    """Error budgets that failed, and why; reasons that differ in numbers alone stand together."""
    failed = [
        (b.reason, f"{run_name(b.method, b.solver)}, {ITEM_NAMES[b.level]}, {one.called}")
        for group in groups
        for one in group.outcomes
        for b in one.budgets
        if b.status != "ok"
    ]
    return [("; ".join(who), reason) for reason, who in alike(failed)]


def mean_cells(group: Group) -> tuple[Cell, ...]:
    """The grid of solvers, each pair's figures the means over the seeds; one that failed with any seed has failed."""
    found: dict[tuple[str, str], list[Cell]] = {}
    for one in group.outcomes:
        for cell in one.cells:
            found.setdefault((cell.inner, cell.outer), []).append(cell)
    return tuple(_mean_cell(cells) for cells in found.values())


def cell_refusals(group: Group) -> list[tuple[str, str]]:
    """Pairs of solvers that failed, and why; pairs with one reason stand together."""
    failed = [(c.reason, f"{c.inner} × {c.outer}") for one in group.outcomes for c in one.cells if c.status != "ok"]
    return [(", ".join(dict.fromkeys(pairs)), reason) for reason, pairs in alike(failed)]


def _mean_cell(cells: Sequence[Cell]) -> Cell:
    failed = next((cell for cell in cells if cell.status != "ok"), None)
    if failed is not None:
        return failed
    found = {name: mean(getattr(c, name) for c in cells).value for name in ("spearman", "error", "seconds")}
    return replace(cells[0], **found)

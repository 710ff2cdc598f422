"""Which figures a level has: how to draw each of them for groups of outcomes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from matplotlib.figure import Figure

from metafluence.reports import Group
from metafluence.reports.figures.fidelity_against_runtime import fidelity_against_runtime
from metafluence.reports.figures.items_found import items_found
from metafluence.reports.figures.methods_and_variations import heat_map
from metafluence.reports.figures.removal_curves import removal_curves
from metafluence.tasks import Level


def level_figures(groups: Sequence[Group], level: Level) -> dict[str, Callable[[], Figure | None]]:
    """What draws each figure of one level, by name; it gives None where there is nothing to draw."""
    drawn: dict[str, Callable[..., Figure | None]] = {
        "removal-curves": removal_curves,
        "items-found": items_found,
        "fidelity-against-runtime": fidelity_against_runtime,
        "methods-and-variations": heat_map,
        "lds-and-variations": partial(heat_map, field="lds"),
    }
    return {name: partial(draw, groups, level) for name, draw in drawn.items()}

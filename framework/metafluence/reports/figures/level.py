"""All figures of one level that are drawn for groups of outcomes."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure

from metafluence.reports import Group
from metafluence.reports.figures.fidelity_against_runtime import fidelity_against_runtime
from metafluence.reports.figures.items_found import items_found
from metafluence.reports.figures.methods_and_variations import heat_map
from metafluence.reports.figures.removal_curves import removal_curves
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

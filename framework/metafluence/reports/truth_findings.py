"""What is to be said of the truth itself: how reliable it is, and what the effects of all sets of one size share."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean, stdev

from metafluence.reports.groups import Group
from metafluence.studies import Side
from metafluence.tasks import ITEM_NAMES, Level


def truth_findings(group: Group, level: Level) -> list[str]:
    """In sentences, for truths that are replays."""
    if all(one.truth.kind == "minimum" for one in group.outcomes):
        return []
    noun, sides = ITEM_NAMES[level], [one.sides[level] for one in group.outcomes]
    said = [
        _reliability(sides, "reliability", f"single {noun}"),
        _reliability(sides, "subset_reliability", f"sets of {sides[0].subset_size} {noun}"),
        shared_part(sides, noun),
    ]
    return [sentence for sentence in said if sentence]


def shared_part(sides: Sequence[Side], noun: str) -> str:
    """The mean effect of the random subsets, which all share, and how they differ; empty where there are too few."""
    changes = [side.subset_loss_change for side in sides if len(side.subset_loss_change) > 1]
    if not changes:
        return ""
    shared, spread = fmean(map(fmean, changes)), fmean(map(stdev, changes))
    return (
        f"Leaving out {sides[0].subset_size} random {noun} changes the validation loss by {shared:+.2g} in the mean "
        f"over {len(changes[0])} sets, and by {spread:.2g} (standard deviation) from set to set. LDS judges the "
        "latter; no method predicts what all sets share."
    )


def _reliability(sides: list[Side], name: str, what: str) -> str:
    found = [getattr(side, name) for side in sides if getattr(side, name).runs]
    if len(found) == 1:
        return found[0].sentence(what)
    lost = sum(not one.usable for one in found)
    if lost:
        first = next(one for one in found if not one.usable)
        return f"With {lost} of {len(found)} seeds: {first.sentence(what)}"
    return found[0].sentence(what) if found else ""

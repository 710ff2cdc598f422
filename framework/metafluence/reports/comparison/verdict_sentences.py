"""What several variations found, in sentences, and how much of them failed."""

from __future__ import annotations

from collections.abc import Sequence

from metafluence.reports import Group, findings
from metafluence.reports.comparison.ranking import ranking_findings
from metafluence.studies import Outcome
from metafluence.tasks import ITEM_NAMES, LEVELS, Level


def comparison_verdict(outcomes: Sequence[Outcome], groups: Sequence[Group]) -> list[str]:
    """What each group found, level by level; then what failed."""
    several = len(groups) > 1
    said = [f"{label}: {text}" if several else text for label, texts in group_findings(groups) for text in texts]
    return [*said, *filter(None, failures(outcomes))]


def group_findings(groups: Sequence[Group]) -> list[tuple[str, list[str]]]:
    """What was found over all variations, if there are several, and then in each, by its label."""
    found = [(group.label, findings(group)) for group in groups]
    if len(groups) < 2:
        return found
    levels: list[Level] = [level for level in LEVELS if all(level in group.outcomes[0].sides for group in groups)]
    return [*((f"all variations, {ITEM_NAMES[level]}", ranking_findings(groups, level)) for level in levels), *found]


def failures(outcomes: Sequence[Outcome]) -> tuple[str, str]:
    """How many variations failed, and how many runs of the others; empty where none did."""
    failed = sum(bool(one.reason) for one in outcomes)
    runs = [line.row for one in outcomes for line in one.lines]
    lost = sum(row.status != "ok" for row in runs)
    return (
        f"{failed} of {len(outcomes)} variations failed." if failed else "",
        f"{lost} of {len(runs)} runs failed." if lost else "",
    )

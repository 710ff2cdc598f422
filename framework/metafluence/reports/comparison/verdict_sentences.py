"""What several variations found, in sentences, and how much of them failed."""

from __future__ import annotations

from collections.abc import Sequence

from metafluence.reports import Group, findings
from metafluence.studies import Outcome


def comparison_verdict(outcomes: Sequence[Outcome], groups: Sequence[Group]) -> list[str]:
    """What each group found, level by level; then what failed."""
    found = [f"{group.label}: {text}" if len(groups) > 1 else text for group in groups for text in findings(group)]
    return [*found, *filter(None, failures(outcomes))]


def failures(outcomes: Sequence[Outcome]) -> tuple[str, str]:
    """How many variations failed, and how many runs of the others; empty where none did."""
    failed = sum(bool(one.reason) for one in outcomes)
    runs = [line.row for one in outcomes for line in one.lines]
    lost = sum(row.status != "ok" for row in runs)
    return (
        f"{failed} of {len(outcomes)} variations failed." if failed else "",
        f"{lost} of {len(runs)} runs failed." if lost else "",
    )

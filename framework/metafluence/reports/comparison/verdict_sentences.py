"""What several variations found, in sentences."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from metafluence.reports import ITEM_NAMES, Group, Mean, Method, lines, mean, methods, named, values
from metafluence.studies import Outcome
from metafluence.tasks import Level

NOT_ESTIMATORS = ("retrain", "random")


def comparison_verdict(outcomes: Sequence[Outcome], groups: Sequence[Group]) -> list[str]:
    """By group and level: who ranks best, who finds the corrupted items, how near the edit comes to retraining, and
    what removing gains; then what failed.
    """
    said = [f"{group.label}: {text}" if len(groups) > 1 else text for group in groups for text in findings(group)]
    return [*said, *filter(None, failures(outcomes))]


def findings(group: Group) -> list[str]:
    """What the outcomes of one group found."""
    return [sentence for level in group.outcomes[0].sides for sentence in _of_level(group, level)]


def failures(outcomes: Sequence[Outcome]) -> tuple[str, str]:
    """How many variations failed, and how many runs of the others; empty where none did."""
    failed = sum(bool(one.reason) for one in outcomes)
    runs = [line.row for one in outcomes for line in one.lines]
    lost = sum(row.status != "ok" for row in runs)
    return (
        f"{failed} of {len(outcomes)} variations failed." if failed else "",
        f"{lost} of {len(runs)} runs failed." if lost else "",
    )


def _of_level(group: Group, level: Level) -> list[str]:
    noun, what = ITEM_NAMES[level], "loss" if group.outcomes[0].real else "accuracy"
    known = [method for method in methods(group, level) if method[0] not in NOT_ESTIMATORS]
    seeds = len(group.outcomes)
    said = []
    ranked = _best(group, level, known, "spearman")
    if ranked:
        method, found = ranked
        seconds = mean(values(group, level, method, "seconds"))
        over = f" over {seeds} seeds" if seeds > 1 else ""
        said.append(
            f"{named(method)} ranks {noun}s most like exact retraining (Spearman {found.text('.3f')}{over}), all of "
            f"them in {seconds.value:.2g} s."
        )
    spotted = _best(group, level, known, "auroc")
    if spotted:
        method, found = spotted
        inspected = inspected_until_all(group, level, method)
        said.append(
            f"{named(method)} finds the corrupted {noun}s best (AUROC {found.text('.3f')}): all of them stand in the "
            f"{inspected.text('.0f', 100, ' %')} scored lowest."
        )
    edits = [(method, mean(map(abs, values(group, level, method, "gap")))) for method in known]
    edits = _complete(edits)
    if edits:
        method, gap = min(edits, key=lambda pair: (round(pair[1].value, 4), _ratio(group, level, pair[0])))
        said.append(
            f"The edit by {named(method)} comes nearest to retraining without the same {noun}s: test {what} differs by "
            f"{gap.text('.4f')}, at {_ratio(group, level, method):.2g} of the time of one fit from scratch."
        )
    better = -1 if what == "loss" else 1
    removed = _best(group, level, known, f"{what}_retrained", better)
    if removed:
        method, after = removed
        full = mean(getattr(one.full, what) for one in group.outcomes)
        clean = mean(getattr(one.sides[level].clean, what) for one in group.outcomes)
        exactly = f", without exactly the corrupted {clean.text('.3f')}" if clean.n else ""
        said.append(
            f"With all {noun}s the test {what} is {full.text('.3f')}; retrained without those that {named(method)} "
            f"scores lowest it is {after.text('.3f')}, to three digits the best of all estimators{exactly}."
        )
    return said


def inspected_until_all(group: Group, level: Level, method: Method) -> Mean:
    """The share of items inspected, lowest score first, when the last corrupted one is found; over seeds."""
    shares = []
    for _, line in lines(group, level, method):
        found = line.found.numpy()
        if len(found):
            shares.append(float(np.argmax(found >= 1 - 1e-9)) / (len(found) - 1))
    return mean(shares)


def _best(
    group: Group, level: Level, known: Sequence[Method], field: str, better: int = 1
) -> tuple[Method, Mean] | None:
    """The method whose mean is largest (smallest, where better is -1) to three digits, and of several the fastest."""
    found = _complete([(method, mean(values(group, level, method, field))) for method in known])
    return max(found, key=lambda p: (better * round(p[1].value, 3), -_ratio(group, level, p[0])), default=None)


def _complete(found: Sequence[tuple[Method, Mean]]) -> list[tuple[Method, Mean]]:
    """Those over as many seeds as any: a mean over fewer, of a method that failed with the others, is no fair rival."""
    most = max((value.n for _, value in found), default=0)
    return [(method, value) for method, value in found if value.n == most > 0]


def _ratio(group: Group, level: Level, method: Method) -> float:
    found = mean(values(group, level, method, "runtime_ratio")).value
    return found if math.isfinite(found) else math.inf

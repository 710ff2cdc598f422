"""What several variations found, in sentences."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from metafluence.aggregation import Group, Mean, Method, lines, mean, methods, named, runtime_ratios, values
from metafluence.comparison_tables import gaps
from metafluence.figures import NOUNS
from metafluence.outcomes import Outcome
from metafluence.tasks import Level

NOT_ESTIMATORS = ("retrain", "random")


def comparison_verdict(outcomes: Sequence[Outcome], groups: Sequence[Group]) -> list[str]:
    """By group and level: who ranks best, who finds the corrupted items, and how near the edit comes to retraining."""
    said = []
    for group in groups:
        start = f"{group.label}: " if len(groups) > 1 else ""
        for level in group.outcomes[0].sides:
            said += [start + sentence for sentence in _of_level(group, level)]
    failed = [one for one in outcomes if one.reason]
    if failed:
        said.append(f"{len(failed)} of {len(outcomes)} variations failed; the reasons stand below.")
    runs = [line.row for one in outcomes for line in one.lines]
    lost = sum(row.status != "ok" for row in runs)
    if lost:
        said.append(f"{lost} of {len(runs)} runs failed; the reasons stand below the tables.")
    return said


def _of_level(group: Group, level: Level) -> list[str]:
    noun = NOUNS[level]
    known = [method for method in methods(group, level) if method[0] not in NOT_ESTIMATORS]
    seeds = len(group.outcomes)
    over = f", over {seeds} seeds" if seeds > 1 else ""
    said = []
    ranked = _best(group, level, known, "spearman")
    if ranked:
        method, found = ranked
        seconds = mean(values(group, level, method, "seconds"))
        said.append(
            f"{named(method)} ranks {noun}s most like exact retraining (Spearman {found.text('.3f')}{over}), all of "
            f"them in {seconds.value:.2g} s."
        )
    spotted = _best(group, level, known, "auroc")
    if spotted:
        method, found = spotted
        inspected = inspected_until_all(group, level, method)
        said.append(
            f"{named(method)} finds the corrupted {noun}s best (AUROC {found.text('.3f')}{over}): all of them stand "
            f"in the {inspected.text('.0f', 100, ' %')} scored lowest."
        )
    edits = [(method, mean(map(abs, gaps(group, level, method)))) for method in known]
    edits = [(method, gap) for method, gap in edits if gap.n]
    if edits:
        method, gap = min(edits, key=lambda pair: (round(pair[1].value, 4), _ratio(group, level, pair[0])))
        what = "loss" if group.outcomes[0].real else "accuracy"
        said.append(
            f"{named(method)}'s edit comes nearest to retraining without the same {noun}s: test {what} differs by "
            f"{gap.text('.4f')}, at {_ratio(group, level, method):.2g} of the time of one fit from scratch."
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


def _best(group: Group, level: Level, known: Sequence[Method], field: str) -> tuple[Method, Mean] | None:
    found = [(method, mean(values(group, level, method, field))) for method in known]
    found = [(method, value) for method, value in found if value.n]
    return max(found, key=lambda pair: (round(pair[1].value, 3), -_ratio(group, level, pair[0])), default=None)


def _ratio(group: Group, level: Level, method: Method) -> float:
    found = mean(runtime_ratios(group, level, method)).value
    return found if math.isfinite(found) else math.inf

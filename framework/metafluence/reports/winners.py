"""Which estimators are best at one thing, by a paired test: a winner, or those that cannot be told apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from metafluence.evaluation import (
    FEWEST,
    Interval,
    Standing,
    compare_auroc,
    compare_means,
    compare_medians,
    compare_spearman,
)
from metafluence.reports.columns import Column
from metafluence.reports.groups import Array, Group, Mean, Method, common_seeds, lines, mean, methods, retrains, values
from metafluence.tasks import Level

UNINFORMED = ("random",)
"""Methods that know nothing of the items: what others are compared with, and never the best."""


@dataclass(frozen=True)
class Ranking:
    """Estimators by one column, compared on the seeds that all of them have.

    Attributes:
        order: The estimators with a value, the best first.
        means: Their means over the common seeds.
        best: The first, and those that cannot be told apart from it; empty where nothing tests it.
        lead: By how much the first is better than the best that can be told apart from it, with its interval.
        behind: That one; None where there is none.
        chance: The first is not better than an estimator that knows nothing.
    """

    order: tuple[Method, ...]
    means: dict[Method, Mean]
    best: tuple[Method, ...] = ()
    lead: Interval = Interval()
    behind: Method | None = None
    chance: bool = False


def rank(group: Group, level: Level, column: Column, chance: float | None = None, size: bool = False) -> Ranking:
    """Rank the estimators of a group by a column.

    Differences are tested on the same seeds where there are three or more, and of one seed on the same items.

    Args:
        group: The group.
        level: Which items.
        column: By what; its `better` says which values are better.
        chance: What an estimator that knows nothing reaches; the column's own if not given.
        size: Compare the sizes of values, without their signs.
    """
    found = {m: values(group, level, m, column.field) for m in methods(group, level) if m[0] not in UNINFORMED}
    known = {m: np.abs(v) if size else np.array(v) for m, v in found.items() if not retrains(group, level, m)}
    known = {m: v for m, v in known.items() if np.isfinite(v).any() and len(v) == len(group.outcomes)}
    seeds = common_seeds([np.isfinite(v) for v in known.values()])
    known = {m: v[seeds] for m, v in known.items() if np.isfinite(v[seeds]).all() and len(seeds)}
    means = {m: mean(v) for m, v in known.items()}
    sign = -1.0 if size or column.better == "low" else 1.0
    order = tuple(sorted(known, key=lambda m: -sign * means[m].value))
    if not order:
        return Ranking((), {})
    limit = column.chance if chance is None else chance
    if limit is not None and sign * means[order[0]].value <= sign * limit:
        return Ranking(order, means, chance=True)
    standing = _standing(group, level, column.field, order, np.array([known[m] for m in order]), sign > 0)
    if standing is None or len(order) < 2:
        return Ranking(order, means)
    apart = [rival for rival in standing.rivals if not rival.tied]
    behind = {str(order.index(m)): m for m in order}
    beaten = {behind[rival.name] for rival in apart}
    best = tuple(m for m in order if m not in beaten and (limit is None or sign * means[m].value > sign * limit))
    if not apart:
        return Ranking(order, means, best)
    return Ranking(order, means, best, apart[0].difference, behind[apart[0].name])


def _standing(
    group: Group, level: Level, field: str, order: Sequence[Method], known: Array, high: bool
) -> Standing | None:
    """The methods, named by their place in the order, by paired tests; None where there is no test."""
    names = [str(place) for place in range(len(order))]
    if known.shape[1] >= FEWEST:
        return compare_means(names, known, high)
    if len(group.outcomes) != 1:
        return None
    side, runs = group.outcomes[0].sides[level], [lines(group, level, method)[0][1] for method in order]
    if field == "change_error" and all(len(run.change_errors) for run in runs):
        errors = np.stack([run.change_errors.numpy() for run in runs])
        return compare_medians(names, errors[:, np.isfinite(errors).all(axis=0)])
    if not all(len(run.scores) for run in runs):
        return None
    scores = np.stack([run.scores.numpy() for run in runs]) if runs else np.empty((0, 0))
    if field == "spearman" and side.left_out:
        return compare_spearman(names, scores[:, list(side.left_out)], np.array(side.loss_change))
    return compare_auroc(names, scores, np.array(side.marks)) if field == "auroc" and side.marks else None

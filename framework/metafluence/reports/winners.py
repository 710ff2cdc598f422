"""Which estimators are best at one thing, by a paired test: a winner, or those that cannot be told apart."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from metafluence.evaluation import Interval
from metafluence.reports.columns import Column
from metafluence.reports.groups import SEEDS, Group, Mean, Method, mean, methods, retrains, values
from metafluence.reports.paired import item_difference, seed_difference
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
        lead: The mean difference of the first to the best that can be told apart from it, with its interval.
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

    Estimators whose difference is tested are compared pair by pair on the same seeds, or, of fewer than three seeds,
    on the same items.

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
    seeds = _common(list(known.values()))
    known = {m: v[seeds] for m, v in known.items() if np.isfinite(v[seeds]).all() and len(seeds)}
    means = {m: mean(v) for m, v in known.items()}
    sign = 1.0 if column.better == "high" else -1.0
    order = tuple(sorted(known, key=lambda m: -sign * means[m].value))
    if not order:
        return Ranking((), {})
    first, limit = order[0], column.chance if chance is None else chance
    if limit is not None and sign * means[first].value <= sign * limit:
        return Ranking(order, means, chance=True)
    differences = {m: _difference(group, level, column, (first, m), known, seeds) for m in order[1:]}
    if any(one is None for one in differences.values()):
        return Ranking(order, means)
    apart = [m for m, one in differences.items() if one is not None and sign * one.value > 0 and not _spans_zero(one)]
    best = tuple(m for m in order if m not in apart and (limit is None or sign * means[m].value > sign * limit))
    behind = apart[0] if apart else None
    lead = differences[behind] if behind is not None else None
    return Ranking(order, means, best, lead or Interval(), behind)


def _common(columns: Sequence[np.ndarray]) -> list[int]:
    """The seeds on which the methods are compared: those that all have, of the methods with the most seeds in common.

    A method that has none of the others' seeds is left out rather than the others.
    """
    finite = sorted((np.isfinite(column) for column in columns), key=lambda known: -int(known.sum()))
    seeds: np.ndarray | None = None
    for known in finite:
        both = known if seeds is None else seeds & known
        seeds = both if both.any() else seeds
    return [] if seeds is None else np.flatnonzero(seeds).tolist()


def _difference(
    group: Group, level: Level, column: Column, pair: tuple[Method, Method], known: dict[Method, np.ndarray],
    seeds: Sequence[int],
) -> Interval | None:  # fmt: skip
    """The first method's value less the second's, with its interval; None where nothing tests it."""
    if len(seeds) >= SEEDS:
        return seed_difference(known[pair[0]], known[pair[1]])
    return item_difference(group, level, column.field, pair, seeds)


def _spans_zero(difference: Interval) -> bool:
    return not math.isfinite(difference.low) or difference.low <= 0 <= difference.high

"""Differences of two methods with their intervals, from values in pairs: of the same seeds, or of the same items."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from scipy.stats import rankdata, t

from metafluence.evaluation import Interval
from metafluence.reports.groups import Array, Group, Method, lines
from metafluence.studies import Line, Side
from metafluence.tasks import Level

RESAMPLES = 1000


def seed_difference(first: Array, second: Array) -> Interval:
    """Mean difference of two methods' values [n], one a seed, with Student's 95 % interval of paired differences."""
    difference = first - second
    half = t.ppf(0.975, len(difference) - 1) * difference.std(ddof=1) / math.sqrt(len(difference))
    middle = float(difference.mean())
    return Interval(middle, middle - float(half), middle + float(half))


def item_difference(
    group: Group, level: Level, field: str, pair: tuple[Method, Method], seeds: Sequence[int]
) -> Interval | None:
    """Difference of two methods' values, with the 95 % interval from drawing the items anew, the same for both.

    Args:
        group: The group, of which `seeds` are compared.
        level: Which items.
        field: `spearman`, `auroc` or `change_error`; others do not come of single items, and None is returned.
        pair: The two methods.
        seeds: Numbers of the outcomes.

    Returns:
        The mean over the seeds; None where an outcome does not hold what is known of single items.
    """
    if field not in STATISTICS:
        return None
    values, draws = [], []
    for seed in seeds:
        both = [_line(group, level, method, seed) for method in pair]
        side = group.outcomes[seed].sides[level]
        arrays = [None if line is None else ITEMS[field](line, side) for line in both]
        first, second = arrays
        if first is None or second is None or first.shape != second.shape or not first.shape[-1]:
            return None
        count = first.shape[-1]
        drawn = np.random.default_rng(seed).integers(count, size=(RESAMPLES, count))
        whole = np.arange(count)[None]
        one, other = (STATISTICS[field](array[..., whole])[0] for array in (first, second))
        values.append(one - other)
        draws.append(STATISTICS[field](first[..., drawn]) - STATISTICS[field](second[..., drawn]))
    found = np.mean(draws, axis=0)
    found = found[np.isfinite(found)]
    if not len(found):
        return None
    low, high = np.quantile(found, [0.025, 0.975])
    return Interval(float(np.mean(values)), float(low), float(high))


def _line(group: Group, level: Level, method: Method, seed: int) -> Line | None:
    one = group.outcomes[seed]
    return next((line for outcome, line in lines(group, level, method) if outcome is one), None)


def _ranked(line: Line, side: Side) -> Array | None:
    """[2, items]: scores and true changes of the items that were left out."""
    if not len(side.left_out) or not len(line.scores):
        return None
    return np.stack([line.scores.numpy()[list(side.left_out)], np.array(side.loss_change)])


def _detected(line: Line, side: Side) -> Array | None:
    """[2, items]: scores, and 1 for the corrupted items."""
    if not len(side.marks) or not len(line.scores):
        return None
    return np.stack([line.scores.numpy(), np.array(side.marks, dtype=float)])


def _errors(line: Line, side: Side) -> Array | None:
    """[1, items]: relative errors of the predicted parameter changes."""
    return line.change_errors.numpy()[None] if len(line.change_errors) else None


def spearman(pairs: Array) -> Array:
    """Rank correlation of [2, draws, n]; NaN of a draw that has no order."""
    ranks = rankdata(pairs, axis=-1)
    ranks = ranks - ranks.mean(axis=-1, keepdims=True)
    size = np.sqrt((ranks[0] ** 2).sum(axis=-1) * (ranks[1] ** 2).sum(axis=-1))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(size > 0, (ranks[0] * ranks[1]).sum(axis=-1) / size, np.nan)


def auroc(pairs: Array) -> Array:
    """Area under the curve of finding the marked items [2, draws, n], lowest score first; NaN of all or none marked."""
    scores, marks = pairs
    ranks, positive = rankdata(-scores, axis=-1), marks.sum(axis=-1)
    negative = marks.shape[-1] - positive
    with np.errstate(invalid="ignore", divide="ignore"):
        above = (ranks * marks).sum(axis=-1) - positive * (positive + 1) / 2
        return np.where(positive * negative > 0, above / (positive * negative), np.nan)


def median_error(errors: Array) -> Array:
    """Median of [1, draws, n], without those of items that do not move the parameters (NaN or infinite)."""
    known = np.where(np.isfinite(errors[0]), errors[0], np.nan)
    return np.nanmedian(known, axis=-1)


ITEMS: dict[str, Callable[[Line, Side], Array | None]] = {
    "spearman": _ranked, "auroc": _detected, "change_error": _errors,
}  # fmt: skip
STATISTICS: dict[str, Callable[[Array], Array]] = {
    "spearman": spearman, "auroc": auroc, "change_error": median_error,
}  # fmt: skip

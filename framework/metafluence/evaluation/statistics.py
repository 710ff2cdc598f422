"""What a comparison of methods supports: means over seeds, and which methods cannot be told apart from the best.

Methods are compared on the same items or seeds, by paired differences. All pairs of methods are one family of tests
(Holm 1979), so that the best one may be picked by looking. Plain numpy arrays in and out; every draw is seeded.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata, t

from metafluence.evaluation.metrics import Array, Interval

LEVEL = 0.05
"""Of all tests; intervals cover 1 − LEVEL."""
FEWEST = 3
"""Seeds, items, or items of each kind, below which no interval is given and nothing is told apart."""
RESAMPLES = 1000
PERMUTATIONS = 1999
NAN = float("nan")


@dataclass(frozen=True, kw_only=True)
class Rival:
    """A method beside the best one."""

    name: str
    difference: Interval
    """By how much the best one is better, with its 95 % interval, which is not corrected for several methods."""
    p: float
    """Two-sided, of no difference, corrected by Holm over all pairs of methods; NaN where nothing can be tested."""

    @property
    def tied(self) -> bool:
        """It cannot be told apart from the best one."""
        return not self.p <= LEVEL


@dataclass(frozen=True, kw_only=True)
class Standing:
    """Which method is best by a metric, and what that is worth."""

    best: str
    value: float
    """Its metric."""
    rivals: tuple[Rival, ...]
    """The other methods, the nearest first."""
    chance_p: float = NAN
    """One-sided, of a best method that is no better than chance, corrected for the number of methods; NaN where
    nothing can be tested."""

    @property
    def ties(self) -> tuple[str, ...]:
        """The methods that cannot be told apart from the best one, without itself."""
        return tuple(rival.name for rival in self.rivals if rival.tied)

    @property
    def above_chance(self) -> bool:
        """Chance is rejected at the 5 % level."""
        return self.chance_p <= LEVEL


def mean_interval(values: Sequence[float] | Array, low: float = -np.inf, high: float = np.inf) -> Interval:
    """The mean of the finite values with Student's 95 % interval, cut off at the bounds of the quantity.

    The cut loses no coverage, as the true mean lies inside the bounds.

    Args:
        values: one for each seed.
        low: least possible value.
        high: largest possible value.

    Returns:
        The mean; its interval is NaN for fewer than three values.

    Example:
        >>> from metafluence import mean_interval
        >>> mean_interval([0.9, 1.0, 1.0], 0, 1).high
        1.0
    """
    known = np.asarray(values, dtype=float)
    known = known[np.isfinite(known)]
    if not len(known):
        return Interval()
    value = float(known.mean())
    if len(known) < FEWEST:
        return Interval(value)
    half = _half(known.std(ddof=1) / np.sqrt(len(known)), len(known) - 1)
    return _clipped(value, half, low, high)


def holm(p: Sequence[float] | Array) -> Array:
    """Adjusted p-values of a family of tests (Holm 1979); NaN stays NaN and is not counted.

    Example:
        >>> from metafluence.evaluation.statistics import holm
        >>> holm([0.01, 0.04, 0.03]).tolist()
        [0.03, 0.06, 0.06]
    """
    raw = np.asarray(p, dtype=float)
    adjusted = np.full(raw.shape, NAN)
    order = np.argsort(raw)[: int(np.isfinite(raw).sum())]
    scaled = raw[order] * np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(1, np.maximum.accumulate(scaled))
    return adjusted


def compare_means(
    names: Sequence[str], values: Array, larger_is_better: bool = True, chance: float | None = None
) -> Standing | None:
    """Compare methods by the mean over seeds, with Student's t on paired differences.

    Args:
        names: of the m methods.
        values: the metric by method and seed, [m, seeds]; NaN where a run failed. A pair of methods is compared on the
            seeds that both have, and only methods with as many seeds as any can be the best one.
        larger_is_better: else smaller is.
        chance: the metric of a method that knows nothing, if it has one.

    Returns:
        The standing; None where no method has a value.

    Example:
        >>> import numpy as np
        >>> from metafluence import compare_means
        >>> found = compare_means(["a", "b"], np.array([[0.9, 0.8, 0.9], [0.1, 0.2, 0.1]]))
        >>> found.best, found.ties
        ('a', ())
    """
    values, sign = np.atleast_2d(values), 1 if larger_is_better else -1
    known = np.isfinite(values)
    counts = known.sum(axis=1)
    if not counts.any():
        return None
    means = np.array([row[k].mean() if k.any() else NAN for row, k in zip(values, known, strict=True)])

    def difference(i: int, j: int) -> tuple[float, float, int]:
        both = known[i] & known[j]
        n = int(both.sum())
        gaps = sign * (values[i, both] - values[j, both])
        return (float(gaps.mean()) if n else NAN), (float(gaps.std(ddof=1) / np.sqrt(n)) if n > 1 else NAN), n

    eligible = np.where(counts == counts.max(), sign * means, -np.inf)
    best, p = int(np.argmax(eligible)), NAN
    if chance is not None and counts[best] >= FEWEST:
        own = sign * (values[best, known[best]] - chance)
        p = students_p(float(own.mean()), float(own.std(ddof=1) / np.sqrt(len(own))), len(own), sides=1)
    return _standing(names, means, best, difference, p)


def compare_spearman(names: Sequence[str], predicted: Array, true: Array) -> Standing | None:
    """Compare methods by the Spearman correlation of their scores [m, n] with true changes [n] of the same items.

    Differences by a bootstrap of items, shared by all methods; chance by permuting the true changes.

    Returns:
        The standing; None where no method has an order.
    """
    predicted, true = np.atleast_2d(predicted), np.asarray(true)
    draws = np.random.default_rng(0).integers(len(true), size=(RESAMPLES, len(true)))
    drawn = np.stack(
        [_correlations(rankdata(row[draws], axis=-1), rankdata(true[draws], axis=-1)) for row in predicted]
    )
    ranks, target = rankdata(predicted, axis=-1), rankdata(true)
    values = np.array([_correlations(row, target) for row in ranks])

    def permuted(row: Array) -> Array:
        order = np.random.default_rng(1).permuted(np.tile(target, (PERMUTATIONS, 1)), axis=1)
        return _correlations(np.broadcast_to(row, order.shape), order)

    return _resampled(names, values, drawn, len(true), ranks, permuted, span=2)


def compare_auroc(names: Sequence[str], scores: Array, harmful: NDArray[np.bool_]) -> Standing | None:
    """Compare methods by how well low scores [m, n] find the harmful items [n], as AUROC.

    Differences by a bootstrap of harmful and of other items apart, shared by all methods; chance by permuting which
    items are harmful.

    Returns:
        The standing; None where all or no items are harmful.
    """
    scores, harmful = np.atleast_2d(scores), np.asarray(harmful, dtype=bool)
    positive, negative = int(harmful.sum()), int((~harmful).sum())
    if not positive or not negative:
        return None
    generator = np.random.default_rng(0)
    first = generator.multinomial(positive, np.full(positive, 1 / positive), size=RESAMPLES) / positive
    second = generator.multinomial(negative, np.full(negative, 1 / negative), size=RESAMPLES) / negative
    won = [
        (row[harmful, None] < row[None, ~harmful]) + 0.5 * (row[harmful, None] == row[None, ~harmful]) for row in scores
    ]
    drawn = np.stack([((first @ wins) * second).sum(axis=1) for wins in won])
    values = np.array([wins.mean() for wins in won])
    values[~np.isfinite(scores).all(axis=1)] = NAN
    ranks = rankdata(-scores, axis=-1)

    def permuted(row: Array) -> Array:
        order = np.random.default_rng(1).permuted(np.tile(harmful, (PERMUTATIONS, 1)), axis=1)
        return ((row * order).sum(axis=1) - positive * (positive + 1) / 2) / (positive * negative)

    return _resampled(names, values, drawn, min(positive, negative), ranks, permuted, span=1)


def compare_medians(names: Sequence[str], errors: Array) -> Standing | None:
    """Compare methods by the median of their errors [m, n] on the same items; smaller is better.

    Differences by a bootstrap of items, shared by all methods.

    Returns:
        The standing; None where no method has errors.
    """
    errors = np.atleast_2d(errors)
    if not errors.shape[1]:
        return None
    draws = np.random.default_rng(0).integers(errors.shape[1], size=(RESAMPLES, errors.shape[1]))
    drawn = np.stack([np.median(row[draws], axis=1) for row in errors])
    return _resampled(names, np.median(errors, axis=1), drawn, errors.shape[1], sign=-1)


def _resampled(
    names: Sequence[str],
    values: Array,
    drawn: Array,
    n: int,
    ranks: Array | None = None,
    permuted: Callable[[Array], Array] | None = None,
    sign: int = 1,
    span: float = np.inf,
) -> Standing | None:
    """From metrics [m], and the same on resamples [m, R] of n items. span: the largest possible difference."""
    if not np.isfinite(values).any():
        return None

    def difference(i: int, j: int) -> tuple[float, float, int]:
        gaps = sign * (drawn[i] - drawn[j])
        error = float(np.nanstd(gaps)) if np.isfinite(gaps).any() else NAN
        return float(sign * (values[i] - values[j])), error, n

    best, p = int(np.nanargmax(sign * values)), NAN
    if permuted is not None and ranks is not None and n >= FEWEST:
        at_random = permuted(ranks[best])
        p = float((1 + (at_random >= values[best] - 1e-12).sum()) / (1 + len(at_random)))
    return _standing(names, values, best, difference, p, span)


def _standing(
    names: Sequence[str],
    values: Array,
    best: int,
    difference: Callable[[int, int], tuple[float, float, int]],
    chance_p: float,
    span: float = np.inf,
) -> Standing:
    """difference(i, j): by how much i is better, its standard error, and the number of pairs behind it."""
    known = [i for i in range(len(names)) if np.isfinite(values[i])]
    pairs = list(combinations(known, 2))
    adjusted = dict(zip(pairs, holm([students_p(*difference(i, j)) for i, j in pairs]), strict=True))
    rivals = []
    for other in known:
        if other == best:
            continue
        gap, error, n = difference(best, other)
        half = _half(error, n - 1) if n >= FEWEST else NAN
        p = float(adjusted[min(best, other), max(best, other)])
        rivals.append(Rival(name=names[other], difference=_clipped(gap, half, -span, span), p=p))
    rivals.sort(key=lambda rival: rival.difference.value)
    corrected = min(1.0, chance_p * len(known)) if np.isfinite(chance_p) else NAN
    return Standing(best=names[best], value=float(values[best]), rivals=tuple(rivals), chance_p=corrected)


def students_p(gap: float, error: float, n: int, sides: int = 2) -> float:
    """Student's p-value of no difference; one-sided: of none above 0. NaN for too few pairs."""
    if n < FEWEST or not np.isfinite(error):
        return NAN
    if error <= 1e-12 * abs(gap) or not error:  # the same difference for every pair
        return 1.0 if abs(gap) <= 1e-12 or (sides == 1 and gap < 0) else 0.0
    tail = t.sf(abs(gap) / error if sides == 2 else gap / error, n - 1)
    return float(sides * tail)


def _clipped(value: float, half: float, low: float, high: float) -> Interval:
    return Interval(value, *(float(np.clip(end, low, high)) for end in (value - half, value + half)))


def _half(error: float, freedom: int) -> float:
    return float(t.ppf(1 - LEVEL / 2, freedom) * error)


def _correlations(first: Array, second: Array) -> Array:
    """Pearson correlations along the last axis; NaN where either is constant."""
    first, second = (x - x.mean(axis=-1, keepdims=True) for x in (first, second))
    size = np.sqrt((first**2).sum(axis=-1) * (second**2).sum(axis=-1))
    with np.errstate(divide="ignore", invalid="ignore"):
        return (first * second).sum(axis=-1) / size

"""How far predictions agree with ground truth, and how well harmful items are found. Plain numpy arrays in and out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.stats import pearsonr, rankdata, spearmanr
from sklearn.metrics import average_precision_score, roc_auc_score

Array = NDArray[np.float64]


@dataclass(frozen=True)
class ChangeAgreement:
    """Predicted against true parameter change, one number per removal [s].

    relative_error: ‖predicted − true‖ / ‖true‖. cosine: between the two. norm_ratio: ‖predicted‖ / ‖true‖. moved: which
    removals move the parameters at all.
    """

    relative_error: Array
    cosine: Array
    norm_ratio: Array
    moved: NDArray[np.bool_]

    def median(self, what: Literal["relative_error", "cosine", "norm_ratio"]) -> float:
        """Of the removals that move the parameters; NaN where none does."""
        return median(getattr(self, what)[self.moved])


def change_agreement(predicted: Array, true: Array) -> ChangeAgreement:
    """Compare the columns of two [P, s] arrays."""
    size, length = np.linalg.norm(true, axis=0), np.linalg.norm(predicted, axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        error = np.linalg.norm(predicted - true, axis=0) / size
        cosine = (predicted * true).sum(axis=0) / (size * length)
        return ChangeAgreement(error, cosine, length / size, moved(true))


def moved(true: Array) -> NDArray[np.bool_]:
    """Which removals [s] move the parameters at all, by the columns of true changes [P, s].

    Where none is left of a change but what the fit's tolerance leaves, a relative error says nothing.
    """
    size = np.linalg.norm(true, axis=0)
    return size > 1e-7 * size.max()


def median(values: Array) -> float:
    """NaN of no values."""
    return float(np.median(values)) if len(values) else float("nan")


@dataclass(frozen=True)
class ScoreAgreement:
    """Scores against true changes of a target's loss: Pearson, Spearman, and the slope of scores on true changes.

    A slope of 1 says that sizes are right, not the order alone; it is meaningless for rank-only scores.
    """

    pearson: float
    spearman: float
    slope: float


def score_agreement(predicted: Array, true: Array) -> ScoreAgreement:
    """Compare two [n] arrays. NaN where either is constant, for then nothing can be said."""
    if np.ptp(predicted) == 0 or np.ptp(true) == 0:
        return ScoreAgreement(float("nan"), float("nan"), float("nan"))
    centred = true - true.mean()
    slope = float(centred @ (predicted - predicted.mean()) / (centred @ centred))
    pearson, spearman = (np.asarray(f(predicted, true))[0] for f in (pearsonr, spearmanr))
    return ScoreAgreement(float(pearson), float(spearman), slope)


@dataclass(frozen=True)
class Interval:
    """A figure with its 95 % bootstrap interval."""

    value: float = float("nan")
    low: float = float("nan")
    high: float = float("nan")


def rank_agreement(predicted: Array, true: Array, resamples: int = 1000) -> Interval:
    """Spearman correlation of two [n] arrays; the interval is of n pairs drawn anew, always with the same draws.

    Of several predictions [k, n] the mean of their correlations.
    """
    several = np.atleast_2d(predicted)
    if len(true) < 3 or not np.ptp(several, axis=1).all() or np.ptp(true) == 0:
        return Interval()
    drawn = np.random.default_rng(0).integers(len(true), size=(resamples, len(true)))
    first, second = (rankdata(x[..., drawn], axis=-1) for x in (several, true))
    first, second = (x - x.mean(axis=-1, keepdims=True) for x in (first, second))
    size = np.sqrt((first**2).sum(axis=-1) * (second**2).sum(axis=-1))
    ordered = (size > 0).all(axis=0)  # draws of one pair alone have no order
    found = (first * second).sum(axis=-1)[:, ordered] / size[:, ordered]
    low, high = np.quantile(found.mean(axis=0), [0.025, 0.975])
    value = np.mean([np.asarray(spearmanr(one, true))[0] for one in several])
    return Interval(float(value), float(low), float(high))


def bootstrap(values: Array, statistic: Callable[..., Any], resamples: int = 1000) -> Interval:
    """A statistic of [n] values, which takes `axis`; the interval is of n values drawn anew, always the same draws.

    NaN of no values.
    """
    if not len(values):
        return Interval()
    drawn = np.random.default_rng(0).integers(len(values), size=(resamples, len(values)))
    low, high = np.quantile(statistic(values[drawn], axis=1), [0.025, 0.975])
    return Interval(float(statistic(values, axis=0)), float(low), float(high))


def linear_datamodeling_score(scores: Array, subsets: Sequence[Sequence[int]], true: Array) -> Interval:
    """Rank agreement of Σ scores over each removed subset with its true loss change [m] (Park et al. 2023).

    scores [n]: the predicted loss change on removing each item; any method's are summed, first-order or not.
    """
    return rank_agreement(np.array([scores[list(subset)].sum() for subset in subsets]), true)


@dataclass(frozen=True)
class Detection:
    """Harmful items found by inspecting those of lowest score first.

    auroc, average_precision: harmful is the positive class. found [n + 1]: share of the harmful items among the first
    0, 1, ..., n inspected.
    """

    auroc: float
    average_precision: float
    found: Array

    def found_at(self, share: float) -> float:
        """Share of the harmful items found after inspecting `share` of all."""
        return float(self.found[round(share * (len(self.found) - 1))])


def detection(scores: Array, harmful: NDArray[np.bool_]) -> Detection | None:
    """Detection from scores [n]; None where all or no items are harmful."""
    if harmful.all() or not harmful.any():
        return None
    inspected = np.argsort(scores, kind="stable")
    found = np.concatenate([[0.0], np.cumsum(harmful[inspected]) / harmful.sum()])
    return Detection(float(roc_auc_score(harmful, -scores)), float(average_precision_score(harmful, -scores)), found)


def pareto_front(cost: Array, value: Array) -> list[int]:
    """The numbers of those to which no other is both as cheap and as good, and better in one; the cheapest first.

    Of several of one cost and value the first is named. What has no cost or no value (NaN) is not among them.
    """
    known = [i for i in range(len(cost)) if np.isfinite(cost[i]) and np.isfinite(value[i])]
    front: list[int] = []
    for i in sorted(known, key=lambda i: (cost[i], -value[i])):
        if not front or value[i] > value[front[-1]]:
            front.append(i)
    return front

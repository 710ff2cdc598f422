"""How reliable the effects of items are as facts of a training procedure: whether halves of its runs agree on them."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from math import ceil, comb, inf, isfinite

import numpy as np
from scipy.stats import rankdata

from metafluence.evaluation.metrics import Array

NAN = float("nan")
WANTED = 0.8
"""The reliability for which the number of runs is given."""
LEAST = 0.5
"""The reliability below which no method is ranked."""
LEVEL = 0.05
"""Of the test against halves that agree by chance alone."""
SPLITS, PERMUTATIONS = 40, 199


@dataclass(frozen=True, kw_only=True)
class Reliability:
    """How well halves of the runs of a procedure agree on the effects of the same sets of items."""

    runs: int = 0
    """How many runs; 0 where the truth is not a mean over runs, and exact."""
    halves: float = NAN
    """Spearman of the mean effects in two halves of the runs, the mean over splits."""
    whole: float = NAN
    """The same for the mean over all runs and that of as many other ones (Spearman-Brown), from 0 to 1."""
    p: float = NAN
    """One-sided, of runs that agree by chance alone (permuted effects)."""
    needed: float = NAN
    """How many runs a reliability of 0.8 would take; infinite where halves do not agree."""

    @property
    def usable(self) -> bool:
        """Methods may be ranked by it."""
        return not self.runs or (self.p <= LEVEL and self.whole >= LEAST)

    def sentence(self, what: str) -> str:
        """In words. what: whose effects, such as "single tasks"; empty where there is nothing to say."""
        if not self.runs or not isfinite(self.halves):
            return ""
        found = f"halves of {self.runs} runs agree to {self.halves:.2f} (p = {self.p:.2g}) on the effects of {what}"
        if self.usable:
            wanted = f"; a reliability of {WANTED:g} takes {self.needed:.0f} runs" if self.whole < WANTED else ""
            return f"The procedure has an answer: {found}, so their mean has reliability {self.whole:.2f}{wanted}."
        why = "which chance does, too" if not self.p <= LEVEL else f"a reliability of {self.whole:.2f}, below {LEAST:g}"
        wanted = f" A reliability of {WANTED:g} would take {self.needed:.0f} runs." if isfinite(self.needed) else ""
        return (
            f"The procedure has no answer here: {found}, {why}; no method is ranked by it. What a method says holds "
            f"for its own run only (`truth: {{kind: run}}`).{wanted}"
        )


def reliability(effects: Array) -> Reliability:
    """Split-half reliability by rank of effects [R, m] of m sets of items in R runs (Spearman-Brown).

    Example:
        >>> import numpy as np
        >>> from metafluence import reliability
        >>> same = np.tile(np.arange(8.0), (4, 1))
        >>> found = reliability(same)
        >>> found.whole, found.usable
        (1.0, True)
    """
    runs, count = effects.shape
    if runs < 2 or count < 3:
        return Reliability(runs=runs)
    halves = _halves(runs)
    found = _agreement(effects, halves)
    draws = np.random.default_rng(1)
    chance = [_agreement(draws.permuted(effects, axis=1), halves) for _ in range(PERMUTATIONS)]
    p = (1 + sum(one >= found - 1e-12 for one in chance)) / (1 + PERMUTATIONS)
    size = runs // 2
    one = found / (size - (size - 1) * found) if found > 0 else 0.0  # the reliability of a single run
    whole = runs * one / (1 + (runs - 1) * one)
    needed = inf if not one else max(1, ceil(WANTED / (1 - WANTED) * (1 - one) / one - 1e-9))
    return Reliability(runs=runs, halves=found, whole=min(whole, 1.0), p=p, needed=needed)


def _halves(runs: int) -> tuple[Array, Array]:
    """Pairs of disjoint halves of the runs, as means: two matrices [splits, runs]. Of an odd number one is left out."""
    size = runs // 2
    if comb(runs, size) * comb(runs - size, size) // 2 <= SPLITS:
        chosen = [
            (first, second)
            for first in combinations(range(runs), size)
            for second in combinations([r for r in range(runs) if r not in first], size)
            if first < second
        ]
    else:
        draws = np.random.default_rng(0)
        orders = [draws.permutation(runs) for _ in range(SPLITS)]
        chosen = [(tuple(order[:size]), tuple(order[size : 2 * size])) for order in orders]
    sides = np.zeros((2, len(chosen), runs))
    for split, pair in enumerate(chosen):
        for side, members in enumerate(pair):
            sides[side, split, list(members)] = 1 / size
    return sides[0], sides[1]


def _agreement(effects: Array, halves: tuple[Array, Array]) -> float:
    """The mean Spearman correlation of the mean effects in two halves; no order agrees with none."""
    first, second = (rankdata(half @ effects, axis=1) for half in halves)
    first, second = (x - x.mean(axis=1, keepdims=True) for x in (first, second))
    size = np.sqrt((first**2).sum(axis=1) * (second**2).sum(axis=1))
    return float(np.mean(np.divide((first * second).sum(axis=1), size, out=np.zeros_like(size), where=size > 0)))

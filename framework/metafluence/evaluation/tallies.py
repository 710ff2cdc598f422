"""Every method against every other: how many each one is ahead of, tied with and behind."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

import numpy as np

from metafluence.evaluation.metrics import Array
from metafluence.evaluation.statistics import FEWEST, LEVEL, holm, students_p


@dataclass(frozen=True)
class Tally:
    """Of the other methods, how many one is ahead of, tied with and behind, by paired tests."""

    ahead: int
    tied: int
    behind: int


def tallies(values: Array, larger_is_better: bool = True) -> list[Tally] | None:
    """Every method against every other by Student's t on paired differences, all pairs corrected by Holm.

    Args:
        values: the metric by method and pair, [m, n]; finite.
        larger_is_better: else smaller is.

    Returns:
        One for each method; None for fewer than three pairs.

    Example:
        >>> import numpy as np
        >>> from metafluence.evaluation import tallies
        >>> tallies(np.array([[0.9, 0.8, 0.9], [0.1, 0.2, 0.1]]))[0]
        Tally(ahead=1, tied=0, behind=0)
    """
    count, n = values.shape
    if n < FEWEST:
        return None
    pairs, sign = list(combinations(range(count), 2)), 1 if larger_is_better else -1
    gaps = [sign * (values[i] - values[j]) for i, j in pairs]
    adjusted = holm([students_p(float(gap.mean()), float(gap.std(ddof=1) / np.sqrt(n)), n) for gap in gaps])
    won = np.zeros((count, count), dtype=bool)
    for (i, j), gap, p in zip(pairs, gaps, adjusted, strict=True):
        if p <= LEVEL:
            won[(i, j) if gap.mean() > 0 else (j, i)] = True
    ahead, behind = won.sum(axis=1), won.sum(axis=0)
    return [Tally(int(a), count - 1 - int(a) - int(b), int(b)) for a, b in zip(ahead, behind, strict=True)]

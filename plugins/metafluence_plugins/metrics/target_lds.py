"""The linear datamodeling score of every target alone, with its p-value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy.stats import spearmanr

from metafluence import Measured, Metric, Number, Share


@dataclass(frozen=True)
class TargetLDS(Metric):
    """Spearman of predicted and true loss changes over the truth's random subsets, for each target (Park et al. 2023).

    mean: over targets. significant: the share of targets with a positive correlation whose two-sided p-value, times the
    number of targets (Bonferroni), is at most `level`. smallest, largest: of the p-values. One on the mean target, as
    in the column LDS, may be high where single targets are not predicted.
    """

    level: Share = 0.05

    needs = ("truth", "subsets")

    def numbers(self) -> tuple[Number, ...]:
        share = f"Share of targets whose LDS is above 0 at the level {self.level:g}, corrected for their number."
        return (
            Number("mean", "", "Mean of the targets' LDS by {name}.", "", ".3f", "high", 0.0, (-1.0, 1.0)),
            Number("significant", meaning=share, better="high", chance=0.0, bounds=(0.0, 1.0)),
            Number("smallest p", meaning="Smallest of the targets' p-values.", bounds=(0.0, 1.0)),
            Number("largest p", meaning="Largest of the targets' p-values.", bounds=(0.0, 1.0)),
        )

    def measure(self, run: Measured) -> Mapping[str, float]:
        subsets = run.truth.subsets
        scores, true = run.target_scores.double(), run.changes_without(subsets).double()
        predicted = np.stack([scores[list(subset)].sum(dim=0).numpy() for subset in subsets])
        found = [correlation(predicted[:, j], true[:, j].numpy()) for j in range(true.shape[1])]
        known = np.array([pair for pair in found if np.isfinite(pair).all()])
        if not len(known):
            return {}
        good = (known[:, 0] > 0) & (known[:, 1] * len(known) <= self.level)
        p = known[:, 1]
        return {
            "mean": float(known[:, 0].mean()),
            "significant": float(good.mean()),
            "smallest p": float(p.min()),
            "largest p": float(p.max()),
        }


def correlation(predicted: np.ndarray, true: np.ndarray) -> tuple[float, float]:
    """Spearman correlation [m] with [m] and its p-value; NaN where either is constant or not known."""
    if not np.isfinite([predicted, true]).all() or np.ptp(predicted) == 0 or np.ptp(true) == 0:
        return float("nan"), float("nan")
    value, p = np.asarray(spearmanr(predicted, true))
    return float(value), float(p)

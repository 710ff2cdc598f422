"""The linear datamodeling score of the targets' mean loss."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from metafluence import Measured, Metric, Number, linear_datamodeling_score
from metafluence_plugins.metrics.intervals import values, with_interval


@dataclass(frozen=True)
class LDS(Metric):
    """Spearman correlation, over random subsets of items, of true loss changes with sums of scores (Park et al. 2023).

    lds_low, lds_high: its 95 % interval, by a bootstrap of subsets.
    """

    needs = ("truth", "subsets")

    def numbers(self) -> tuple[Number, ...]:
        about = (
            "Linear datamodeling score: Spearman correlation over random subsets by {name}, a subset scored by the sum "
            "of its items."
        )
        return with_interval(Number("lds", "LDS", about, form=".3f", better="high", chance=0.0, bounds=(-1.0, 1.0)))

    def measure(self, run: Measured) -> Mapping[str, float]:
        truth = run.truth
        found = linear_datamodeling_score(run.scores.numpy(), truth.subsets, truth.subset_loss_change.numpy())
        return values("lds", found)

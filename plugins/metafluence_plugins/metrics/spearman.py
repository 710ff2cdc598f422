"""Whether scores are in the order of true changes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from metafluence import Measured, Metric, Number, rank_agreement
from metafluence_plugins.metrics.intervals import values, with_interval


@dataclass(frozen=True)
class Spearman(Metric):
    """Spearman correlation of scores with true changes of the targets' mean loss, over the items that were left out.

    spearman_low, spearman_high: its 95 % interval, by a bootstrap of these items.
    """

    needs = ("truth", "single items")

    def numbers(self) -> tuple[Number, ...]:
        about = "Spearman correlation of scores with changes of the validation loss by {name}."
        return with_interval(
            Number("spearman", "Spearman", about, form=".3f", better="high", chance=0.0, bounds=(-1.0, 1.0))
        )

    def measure(self, run: Measured) -> Mapping[str, float]:
        return values("spearman", rank_agreement(run.scores_alone, run.truth.loss_change.numpy()))

"""Whether scores are in proportion to true changes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from metafluence import Measured, Metric, Number, score_agreement


@dataclass(frozen=True)
class Pearson(Metric):
    """Pearson correlation of scores with true changes of the targets' mean loss, over the items that were left out."""

    needs = ("truth", "single items")

    def numbers(self) -> tuple[Number, ...]:
        about = "Pearson correlation of scores with changes of the validation loss by {name}."
        return (Number("pearson", "Pearson", about, form=".3f", better="high", chance=0.0, bounds=(-1.0, 1.0)),)

    def measure(self, run: Measured) -> Mapping[str, float]:
        return {"pearson": score_agreement(run.scores_alone, run.truth.loss_change.numpy()).pearson}

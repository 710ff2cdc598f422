"""Whether scores have the size of true changes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from metafluence import Measured, Metric, Number, score_agreement


@dataclass(frozen=True)
class Slope(Metric):
    """Slope of scores on true changes of the targets' mean loss, over the items that were left out.

    1 says that sizes are right. Scores that are ranks only have none.
    """

    needs = ("truth", "single items")

    def numbers(self) -> tuple[Number, ...]:
        about = "Slope of scores on changes by {name}: 1 where sizes are right; none for rank-only scores."
        return (Number("slope", "slope", about, form=".2f"),)

    def measure(self, run: Measured) -> Mapping[str, float]:
        if run.units == "rank_only":
            return {}
        return {"slope": score_agreement(run.scores_alone, run.truth.loss_change.numpy()).slope}

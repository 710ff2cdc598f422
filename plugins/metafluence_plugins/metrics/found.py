"""How many corrupted items are among those of lowest score."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from metafluence import Measured, Metric, Number, Share, detection


@dataclass(frozen=True)
class Found(Metric):
    """The share of the corrupted items that are among the items of lowest score.

    share: how many items are inspected, as a share of all; as many as the study removes if not given.
    """

    share: Share | None = None

    needs = ("corrupted items",)

    def numbers(self) -> tuple[Number, ...]:
        which = "the removed ones" if self.share is None else f"the {100 * self.share:g} % of lowest score"
        about = f"Share of the corrupted items among {which}."
        return (Number("found", "found", about, form="%", better="high", bounds=(0.0, 1.0)),)

    def measure(self, run: Measured) -> Mapping[str, float]:
        share = run.evaluation.remove[0] / len(run.scores) if self.share is None else self.share
        spotted = detection(run.scores.numpy(), run.corrupted.numpy())
        return {} if spotted is None else {"found": spotted.found_at(share)}

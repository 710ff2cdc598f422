"""Whether corrupted items have low scores, with weight on the lowest ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sklearn.metrics import average_precision_score

from metafluence import Measured, Metric, Number


@dataclass(frozen=True)
class AveragePrecision(Metric):
    """Average precision of finding corrupted items by low scores; the share of corrupted items is chance."""

    needs = ("corrupted items",)

    def numbers(self) -> tuple[Number, ...]:
        about = "Average precision of finding the corrupted items by low scores; chance is their share of all items."
        return (Number("average_precision", "AP", about, form=".3f", better="high", bounds=(0.0, 1.0)),)

    def measure(self, run: Measured) -> Mapping[str, float]:
        return {"average_precision": float(average_precision_score(run.corrupted.numpy(), -run.scores.numpy()))}

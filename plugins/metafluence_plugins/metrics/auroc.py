"""Whether corrupted items have low scores, for every threshold at once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sklearn.metrics import roc_auc_score

from metafluence import Measured, Metric, Number


@dataclass(frozen=True)
class AUROC(Metric):
    """Area under the ROC curve of finding corrupted items by low scores: the share of pairs in the right order."""

    needs = ("corrupted items",)

    def numbers(self) -> tuple[Number, ...]:
        about = "AUROC of finding the corrupted items by low scores; .5 is chance."
        return (Number("auroc", "AUROC", about, form=".3f", better="high", chance=0.5, bounds=(0.0, 1.0)),)

    def measure(self, run: Measured) -> Mapping[str, float]:
        return {"auroc": float(roc_auc_score(run.corrupted.numpy(), -run.scores.numpy()))}

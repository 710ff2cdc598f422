"""What retraining without the lowest scores gives, in accuracy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from metafluence import Measured, Metric, Number


@dataclass(frozen=True)
class AccuracyRetrained(Metric):
    """Test accuracy after retraining without the items of lowest score, as many as the study removes."""

    needs = ("truth", "classes")

    def numbers(self) -> tuple[Number, ...]:
        about = "Test accuracy after {short} without the items of lowest score."
        return (Number("accuracy_retrained", "acc. {again}", about, form=".4f", better="high", bounds=(0.0, 1.0)),)

    def measure(self, run: Measured) -> Mapping[str, float]:
        return {"accuracy_retrained": run.curve.first()["accuracy_retrained"]}

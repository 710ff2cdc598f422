"""What an edit without retraining gives, in accuracy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from metafluence import Measured, Metric, Number


@dataclass(frozen=True)
class AccuracyEdited(Metric):
    """Test accuracy at λ* + the predicted Δλ of removing the items of lowest score, as many as the study removes."""

    needs = ("classes",)

    def numbers(self) -> tuple[Number, ...]:
        about = "Test accuracy at λ* + the predicted Δλ of removing the items of lowest score."
        return (Number("accuracy_edited", "acc. edited", about, form=".4f", better="high", bounds=(0.0, 1.0)),)

    def measure(self, run: Measured) -> Mapping[str, float]:
        return {"accuracy_edited": run.curve.first()["accuracy_edited"]}

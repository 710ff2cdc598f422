"""What an edit without retraining gives, in loss."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import inf

from metafluence import Measured, Metric, Number


@dataclass(frozen=True)
class LossEdited(Metric):
    """Test loss (nats) at λ* + the predicted Δλ of removing the items of lowest score, as many as the study removes."""

    def numbers(self) -> tuple[Number, ...]:
        about = "Test loss (nats) at λ* + the predicted Δλ of removing the items of lowest score."
        return (Number("loss_edited", "loss edited", about, "nats", ".4f", better="low", bounds=(0.0, inf)),)

    def measure(self, run: Measured) -> Mapping[str, float]:
        return {"loss_edited": run.curve.first()["loss_edited"]}

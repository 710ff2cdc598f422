"""What retraining without the lowest scores gives, in loss."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import inf

from metafluence import Measured, Metric, Number


@dataclass(frozen=True)
class LossRetrained(Metric):
    """Test loss (nats) after retraining without the items of lowest score, as many as the study removes."""

    needs = ("truth",)

    def numbers(self) -> tuple[Number, ...]:
        about = "Test loss (nats) after {short} without the items of lowest score."
        return (Number("loss_retrained", "loss {again}", about, "nats", ".4f", better="low", bounds=(0.0, inf)),)

    def measure(self, run: Measured) -> Mapping[str, float]:
        return {"loss_retrained": run.curve.first()["loss_retrained"]}

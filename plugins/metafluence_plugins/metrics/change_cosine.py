"""Whether predicted parameters go the right way."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from metafluence import Measured, Metric, Number


@dataclass(frozen=True)
class ChangeCosine(Metric):
    """Median cosine of predicted and true Δλ, over left-out items that move the parameters at all."""

    needs = ("truth", "parameters")

    def numbers(self) -> tuple[Number, ...]:
        about = "Median cosine of predicted and true Δλ, by {name}."
        return (Number("change_cosine", "Δλ cosine", about, form=".3f", better="high", chance=0.0, bounds=(-1.0, 1.0)),)

    def measure(self, run: Measured) -> Mapping[str, float]:
        agreement = run.agreement
        return {} if agreement is None else {"change_cosine": agreement.median("cosine")}

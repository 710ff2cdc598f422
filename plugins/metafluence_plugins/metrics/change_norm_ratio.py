"""Whether predicted parameters go far enough."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import inf

from metafluence import Measured, Metric, Number


@dataclass(frozen=True)
class ChangeNormRatio(Metric):
    """Median of ‖predicted Δλ‖ / ‖true Δλ‖, over left-out items that move the parameters at all."""

    needs = ("truth", "parameters")

    def numbers(self) -> tuple[Number, ...]:
        about = "Median of ‖predicted Δλ‖ / ‖true Δλ‖, by {name}; 1 is the right length."
        return (Number("change_norm_ratio", "Δλ length", about, form=".2f", bounds=(0.0, inf)),)

    def measure(self, run: Measured) -> Mapping[str, float]:
        agreement = run.agreement
        return {} if agreement is None else {"change_norm_ratio": agreement.median("norm_ratio")}

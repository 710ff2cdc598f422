"""How large the error of predicted parameters is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import inf

from metafluence import Measured, Metric, Number


@dataclass(frozen=True)
class ChangeError(Metric):
    """Median relative error of the predicted Δλ, over left-out items that move the parameters at all."""

    needs = ("truth", "parameters")

    def numbers(self) -> tuple[Number, ...]:
        about = "Median over left-out items of ‖predicted − true Δλ‖ / ‖true Δλ‖, by {name}."
        return (Number("change_error", "Δλ error", about, form="%", better="low", chance=1.0, bounds=(0.0, inf)),)

    def measure(self, run: Measured) -> Mapping[str, float]:
        agreement = run.agreement
        return {} if agreement is None else {"change_error": agreement.median("relative_error")}

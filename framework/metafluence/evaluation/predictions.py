"""Predicted parameter changes at one evaluation, each made once."""

from __future__ import annotations

from torch import Tensor

from metafluence.attribution import AttributionMethod
from metafluence.errors import InputError
from metafluence.evaluation.evaluation import Evaluation
from metafluence.runtime import component_fingerprint


class Predictions:
    """What methods predict for the removals of an evaluation's ground truth.

    Error budgets of several methods share their stages, and the certificate judges a method that a budget may have run.
    """

    def __init__(self, evaluation: Evaluation) -> None:
        self._evaluation = evaluation
        self._made: dict[str, Tensor] = {}

    def of(self, method: AttributionMethod) -> Tensor:
        """Predicted Δλ, [P, s], on the processor.

        Raises:
            InputError: without ground truth, or for a method that predicts no parameters.
        """
        key = component_fingerprint(method)
        if key not in self._made:
            self._made[key] = self._predict(method)
        return self._made[key]

    def made(self, method: AttributionMethod) -> Tensor | None:
        """The same if it was made already, else None."""
        return self._made.get(component_fingerprint(method))

    def _predict(self, method: AttributionMethod) -> Tensor:
        context, truth = self._evaluation.context(), self._evaluation.truth
        change = None if truth is None else method.parameter_change(method.prepare(context), truth.removals)
        if change is None:
            lacks = "the evaluation has no ground truth" if truth is None else "it predicts no parameters"
            raise InputError(f"{type(method).__name__} cannot be compared with retrained parameters: {lacks}.")
        return change.values.cpu()

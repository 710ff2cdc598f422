"""The empirical Fisher over tasks: as cheap as a curvature can be."""

from __future__ import annotations

from dataclasses import dataclass

from metafluence import Curvature, Jacobian, LowRankOperator, Point


@dataclass(frozen=True)
class FisherCurvature(Curvature):
    """δI + Σ_i w_i g_i g_iᵀ, g_i the total gradient of task i: rank N, positive for δ > 0, from N gradients alone.

    woodbury inverts it without a product.
    """

    def jacobian(self, point: Point) -> Jacobian:
        return "total"

    def at(self, point: Point) -> LowRankOperator:
        factor = point.task_gradients() * point.weights.task.sqrt()
        return LowRankOperator(factor, point.problem.l2)

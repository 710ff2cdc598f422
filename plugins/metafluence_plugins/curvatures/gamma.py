"""The paper's approximation of the total Hessian ("Evaluating Data Influence in Meta Learning", Theorem 5.1)."""

from __future__ import annotations

from dataclasses import dataclass

from metafluence import Curvature, Jacobian, LinearOperator, Point, ShiftedOperator


@dataclass(frozen=True)
class GammaCurvature(Curvature):
    """δI + Σ_i w_i (Jᵀ ∇²L_O^i J + γ_i I), γ_i = ‖∂_θ L_O^i‖₁ standing in for the third-order part."""

    def jacobian(self, point: Point) -> Jacobian:
        return "total"

    def at(self, point: Point) -> LinearOperator:
        gamma = point.outer_gradients().abs().sum(dim=1)
        return ShiftedOperator(point.hessian(form="no-third-order"), float(point.weights.task @ gamma))

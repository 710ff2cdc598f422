"""The exact total Hessian."""

from __future__ import annotations

from dataclasses import dataclass

from metafluence import Curvature, Jacobian, LinearOperator, Point


@dataclass(frozen=True)
class ExactCurvature(Curvature):
    """δI + Σ_i w_i Jᵀ ∇²ℒ_i J with all third-order terms. Symmetric; it may be indefinite away from a minimum."""

    def jacobian(self, point: Point) -> Jacobian:
        return "total"

    def at(self, point: Point) -> LinearOperator:
        return point.hessian("total")

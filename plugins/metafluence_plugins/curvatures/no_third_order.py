"""The total Hessian without its third-order part."""

from __future__ import annotations

from dataclasses import dataclass

from metafluence import Curvature, Jacobian, LinearOperator, Point


@dataclass(frozen=True)
class NoThirdOrderCurvature(Curvature):
    """δI + Σ_i w_i Jᵀ ∇²L_O^i J: what adaptation's own curvature adds is left out. Often indefinite."""

    def jacobian(self, point: Point) -> Jacobian:
        return "total"

    def at(self, point: Point) -> LinearOperator:
        return point.hessian(form="no-third-order")

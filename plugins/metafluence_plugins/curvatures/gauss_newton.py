"""The Gauss-Newton form of the total Hessian, as TLXML (arXiv 2501.14271) uses it."""

from __future__ import annotations

from dataclasses import dataclass

from metafluence import Curvature, Jacobian, LinearOperator, Point


@dataclass(frozen=True)
class GaussNewtonCurvature(Curvature):
    """δI + Σ_i w_i Jᵀ (GGN of L_O^i) J: adapted outputs are linearised in λ, so it is never indefinite."""

    def jacobian(self, point: Point) -> Jacobian:
        return "total"

    def at(self, point: Point) -> LinearOperator:
        return point.hessian(form="gauss-newton")

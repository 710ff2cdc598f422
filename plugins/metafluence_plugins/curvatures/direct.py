"""The curvature of Direct-IF, which ignores that tasks adapt."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from metafluence import Curvature, InputError, Jacobian, LinearOperator, Point


@dataclass(frozen=True)
class DirectCurvature(Curvature):
    """δI + Σ_i w_i ∂²_λλ L_O with θ held, exact or in its Gauss-Newton form.

    Where L_O has no explicit λ this is zero; if λ and θ live in one space, the first-order convention dθ/dλ = I is
    used instead (and `jacobian` says so), else it is refused.
    """

    form: Literal["exact", "gauss-newton"] = "exact"

    def jacobian(self, point: Point) -> Jacobian:
        if point.is_explicit:
            return "held"
        if point.problem.learner.shares_space:
            return "identity"
        raise InputError(
            f"direct has no meaning for {type(point.problem.learner).__name__}: its outer loss does not depend on the "
            "meta-parameters when θ is held, and the two live in different spaces. Use the curvature exact."
        )

    def at(self, point: Point) -> LinearOperator:
        return point.hessian(self.jacobian(point), self.form)

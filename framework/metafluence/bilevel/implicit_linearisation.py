"""The total gradient and the total Hessian where θ is an argmin, by the implicit function theorem.

With the Lagrangian

    ℒ(λ, Z, θ; u) = outer(λ, Z, θ) − uᵀ ∂_θ inner(λ, Z, θ),     ∂²_θθ inner · u = ∂_θ outer,

the total gradient is ℒ's explicit one and the total Hessian is Jᵀ ∇²ℒ J with J = [I; T], T = dθ/d(λ, Z).
The third-order terms are in uᵀ ∂_θ inner and cost one more differentiation; no third-order tensor is formed.
With ∇²outer in place of ∇²ℒ they are left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import torch
from torch import Tensor
from torch.autograd import grad

from metafluence.bilevel.linearisation import Linearisation
from metafluence.errors import SolverError
from metafluence.learners import ImplicitLearner
from metafluence.linalg import PreparedSolve, Solver
from metafluence.networks import batched_vjp, gradients
from metafluence.tasks import Batch, Level, Weights


class ImplicitLinearisation(Linearisation):
    """θ is the argmin of the inner loss: T = −(∂²_θθ inner)⁻¹ ∂_θ∂_(λ,Z) inner."""

    def __init__(
        self,
        learner: ImplicitLearner,
        rows: Tensor,
        support: Batch,
        query: Batch,
        weights: Weights,
        adapted: Tensor,
        inner_solver: Solver,
    ) -> None:
        super().__init__(learner, rows, support, query, weights, adapted)
        if not inner_solver.symmetric:
            raise SolverError(
                f"{type(inner_solver).__name__} cannot be the inner solver: its answers are not symmetric, so products "
                "with the total Hessian would not be either, and no outer solver would converge. Use neumann with a "
                "truncation, ek-fac, or cg."
            )
        with torch.enable_grad():
            self._inner = learner.inner_loss(self._rows, self._theta, self._support, self._weighed["support"]).sum()
            hessian = learner.inner_hessian(self._rows, self._theta.detach(), self._support, weights.support)
            self._solve = PreparedSolve(inner_solver, hessian)
            (self._inner_gradient,) = grad(self._inner, self._theta, create_graph=True)
            self._adjoint = self._solve_inner(self.outer_gradient.unsqueeze(0))[0].requires_grad_()

    @cached_property
    def _lagrangian(self) -> Tensor:
        with torch.enable_grad():
            return self._outer - (self._adjoint * self._inner_gradient).sum()

    def _depends(self) -> list[Tensor]:
        return [self._outer, self._inner]

    def instance_gradients(self, level: Level, sums: Tensor | None = None) -> list[Tensor]:
        """Moving ω moves θ by θ_ω = −H_in⁻¹ ∂_θ∂_ω inner: the total derivative is Jᵀ (ℒ_·ω + ∇²ℒ [0; θ_ω])."""
        weight, each = self._weighed[level], self._each(level) if sums is None else sums
        with torch.enable_grad():
            by_weight, inner_by_weight = (
                gradients(s, [weight], create_graph=True)[0] for s in (self._lagrangian, self._inner)
            )
        parts = batched_vjp([by_weight], self._variables, [each])
        (moved,) = batched_vjp([inner_by_weight], [self._theta], [each])
        bent = batched_vjp(self._first[-1:], self._variables, [-self._solve_inner(moved)])
        return self._close([a + b for a, b in zip(parts, bent, strict=True)])

    def instance_slopes(self, tangents: list[Tensor], level: Level) -> Tensor:
        weight = self._weighed[level]
        found, bent = batched_vjp(self._first, [weight, self._theta], self._along(tangents))
        return found + batched_vjp([self._inner_gradient], [weight], [-self._solve_inner(bent)])[0]

    def pushforward(self, tangents: list[Tensor]) -> Tensor:
        # ℒ is linear in u: ∂/∂u of its explicit gradient is −∂_θ∂_(λ,Z) inner.
        (mixed,) = batched_vjp(self._first[:-1], [self._adjoint], tangents)
        return self._solve_inner(mixed)

    def pullback(self, parts: list[Tensor]) -> list[Tensor]:
        return self._close(parts)

    def _close(self, parts: list[Tensor], levels: Sequence[Level] = ()) -> list[Tensor]:
        count = len(self.explicit)
        direct, theta_part = [*parts[:count], *parts[count + 1 :]], parts[count]
        inputs = [*self.explicit, *(self._weighed[level] for level in levels)]
        back = batched_vjp([self._inner_gradient], inputs, [-self._solve_inner(theta_part)])
        return [d + b for d, b in zip(direct, back, strict=True)]

    def _solve_inner(self, columns: Tensor) -> Tensor:
        """(∂²_θθ inner)⁻¹ of columns [k, n, Q], all tasks at once."""
        solution = self._solve.solve(columns.detach().movedim(0, -1))
        self.inner_residual = max(self.inner_residual, float(solution.residual.max()))
        return solution.value.movedim(-1, 0)

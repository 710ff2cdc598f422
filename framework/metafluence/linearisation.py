"""The derivatives of a few tasks' outer losses at one point, kept as graphs that every product reuses.

Two stages meet at the features Z of the shared encoder. `Encoder` maps meta-parameters to Z, once for the images
of all tasks; `Head` holds the losses as functions of (meta-parameters, Z, adapted parameters). With the Lagrangian

    ℒ(λ, Z, θ; u) = outer(λ, Z, θ) − uᵀ ∂_θ inner(λ, Z, θ),     ∂²_θθ inner · u = ∂_θ outer,

the total gradient is ℒ's explicit one and the total Hessian is Jᵀ ∇²ℒ J with J = [I; T], T = dθ/d(λ, Z).
Third-order terms sit in uᵀ ∂_θ inner and cost one differentiation more; nothing third-order is ever formed.
With ∇²outer in ∇²ℒ's place they are left out.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor
from torch.autograd import grad
from torch.func import jvp, vjp, vmap

from metafluence.derivatives import batched_vjp, gradients
from metafluence.errors import InputError, SolverError
from metafluence.learners import ImplicitLearner
from metafluence.solving import PreparedSolve, Solver
from metafluence.tasks import Batch, Level

Jacobian = Literal["total", "held", "identity"]
"""What dθ/dλ is taken to be: the true one; zero (θ held); or the identity (first-order, λ and θ in one space)."""

Form = Literal["exact", "no-third-order", "gauss-newton"]
"""What stands between Jᵀ and J in a task's Hessian: ∇²ℒ; ∇²outer; or ∇²outer with the outputs linearised."""


# Rows of per-instance gradients that are formed together.
ROW_BYTES = 2**27


class Encoder:
    """Z(λ) for the n tasks of a chunk. Columns are [k, P]; features are [n, n_s, ...] and [n, n_q, ...]."""

    def __init__(self, learner: ImplicitLearner, meta: Tensor, support: Batch, query: Batch) -> None:
        self._learner = learner
        self._halves = (support.inputs, query.inputs)
        self._counts = tuple(h.shape[0] * h.shape[1] for h in self._halves)
        self._lead = tuple(h.shape[:2] for h in self._halves)
        self._meta = meta.detach().requires_grad_(learner.encodes)
        with torch.enable_grad():
            flat = torch.cat([h.flatten(0, 1) for h in self._halves])
            self._features = learner.encode(self._meta, flat)
        self._held: tuple[Tensor, Tensor] | None = None
        self.support, self.query = (part.detach() for part in self._split(self._features))

    def pull(self, cotangents: list[Tensor]) -> Tensor:
        """Jᵀ g, [P], for the cotangents of the two feature stacks."""
        if not cotangents:
            return torch.zeros_like(self._meta)
        (found,) = gradients((self._features * self._join(cotangents, 0)).sum(), [self._meta])
        return found

    def hold(self, cotangents: list[Tensor]) -> None:
        """Keep the graph of λ ↦ J(λ)ᵀ g, whose derivatives `push` and `product` are."""
        if not cotangents:
            return
        with torch.enable_grad():
            leaf = self._join(cotangents, 0).detach().requires_grad_()
            (pulled,) = grad(self._features, self._meta, leaf, create_graph=True)
        self._held = (leaf, pulled)

    def push(self, columns: Tensor) -> list[Tensor]:
        """J v for each column: the tangents of the two feature stacks, [k, n, n_s, ...] and [k, n, n_q, ...]."""
        if self._held is None:
            return []
        leaf, pulled = self._held
        (tangent,) = batched_vjp([pulled], [leaf], [columns])
        return list(self._split(tangent, 1))

    def pull_columns(self, cotangents: list[Tensor]) -> Tensor:
        """Jᵀ c for each column, [k, P]."""
        return batched_vjp([self._features], [self._meta], [self._join(cotangents, 1)])[0]

    def product(self, columns: Tensor, cotangents: list[Tensor]) -> Tensor:
        """(∂/∂λ Jᵀ g) v + Jᵀ c for each column, [k, P]; g is what `hold` was given."""
        if self._held is None:
            return torch.zeros_like(columns)
        (found,) = batched_vjp([self._held[1], self._features], [self._meta], [columns, self._join(cotangents, 1)])
        return found

    def pull_each(self, cotangents: list[Tensor]) -> Tensor:
        """Jᵀ g of every task on its own, [n, P]."""
        if not cotangents:
            return self._meta.new_zeros(self._lead[0][0], self._meta.numel())
        inputs, g = torch.cat(self._halves, dim=1), torch.cat(cotangents, dim=1)
        return self._learner.pull_each(self._meta.detach(), inputs, g)

    def pull_queries(self, cotangents: Tensor) -> Iterator[Tensor]:
        """Jᵀ g of every query instance on its own, task by task, some rows [instances, P] at a time."""
        inputs, g = self._halves[1].flatten(0, 1).unsqueeze(1), cotangents.flatten(0, 1).unsqueeze(1)
        size = max(1, ROW_BYTES // (self._meta.numel() * self._meta.element_size()))
        for some in (slice(start, start + size) for start in range(0, len(g), size)):
            yield self._learner.pull_each(self._meta.detach(), inputs[some], g[some])

    def push_each(self, rows: Tensor) -> list[Tensor]:
        """J v_i for task i alone: rows [n, P] to tangents [1, n, n_s, ...] and [1, n, n_q, ...]."""
        if not self._learner.encodes:
            return []

        def one(support: Tensor, query: Tensor, row: Tensor) -> tuple[Tensor, Tensor]:
            return jvp(lambda m: self._encode_task(m, support, query), (self._meta.detach(),), (row,))[1]

        return [t.unsqueeze(0) for t in vmap(one)(*self._halves, rows)]

    def product_each(self, rows: Tensor, held: list[Tensor], cotangents: list[Tensor]) -> Tensor:
        """`product` of every task on its own column, [n, P]; `held` are the tasks' own g."""
        if not cotangents:
            return torch.zeros_like(rows)

        def one(support: Tensor, query: Tensor, row: Tensor, g: list[Tensor], c: list[Tensor]) -> Tensor:
            def pulled(meta: Tensor) -> Tensor:
                return vjp(lambda m: self._encode_task(m, support, query), meta)[1](tuple(g))[0]

            meta = self._meta.detach()
            (first,) = vjp(lambda m: self._encode_task(m, support, query), meta)[1](tuple(c))
            return first + jvp(pulled, (meta,), (row,))[1]

        return vmap(one)(*self._halves, rows, held, cotangents)

    def _encode_task(self, meta: Tensor, support: Tensor, query: Tensor) -> tuple[Tensor, Tensor]:
        features = self._learner.encode(meta, torch.cat([support, query]))
        return features[: support.shape[0]], features[support.shape[0] :]

    def _split(self, features: Tensor, lead: int = 0) -> tuple[Tensor, ...]:
        parts = features.split(self._counts, dim=lead)
        return tuple(p.unflatten(lead, shape) for p, shape in zip(parts, self._lead, strict=True))

    def _join(self, parts: list[Tensor], lead: int) -> Tensor:
        return torch.cat([part.flatten(lead, lead + 1) for part in parts], dim=lead)


class Head:
    """The losses of n tasks as functions of rows λ [n, P], features Z and adapted parameters θ [n, Q].

    All methods take and return parts in the order of `explicit`: the rows, if the losses depend on them, then the
    two feature stacks, if there is an encoder. A column of a product carries the weight of each task in `weights`.
    """

    def __init__(
        self,
        learner: ImplicitLearner,
        rows: Tensor,
        support: Batch,
        query: Batch,
        support_weights: Tensor,
        query_weights: Tensor,
        adapted: Tensor,
        jacobian: Jacobian,
        inner_solver: Solver,
    ) -> None:
        self.jacobian: Jacobian = jacobian
        self.inner_residual = 0.0
        with torch.enable_grad():
            lam, theta = rows.detach().requires_grad_(), adapted.detach().requires_grad_()
            features = [f.detach().requires_grad_(learner.encodes) for f in (support.inputs, query.inputs)]
            weigh_support, weigh_query = (w.detach().requires_grad_() for w in (support_weights, query_weights))
            outer = learner.outer_loss(lam, theta, Batch(features[1], query.targets), weigh_query)
            lagrangian = outer.sum()
            scalars, depends = [lagrangian], [lagrangian]
            if jacobian == "total":
                if not inner_solver.symmetric:
                    raise SolverError(
                        f"{type(inner_solver).__name__} cannot be the inner solver: what it gives is not symmetric, so "
                        "products with the total Hessian would not be either, and no outer solver would arrive. Use "
                        "neumann with a truncation, ek-fac, or cg."
                    )
                inner_batch = Batch(features[0], support.targets)
                inner = learner.inner_loss(lam, theta, inner_batch, weigh_support).sum()
                self._solve = PreparedSolve(
                    inner_solver,
                    learner.inner_hessian(lam, theta.detach(), inner_batch, support_weights),
                )
                (self._inner_gradient,) = grad(inner, theta, create_graph=True)
                (self.outer_gradient,) = gradients(lagrangian, [theta])
                self._adjoint = self._solve_inner(self.outer_gradient.unsqueeze(0))[0].requires_grad_()
                lagrangian = lagrangian - (self._adjoint * self._inner_gradient).sum()
                depends.append(inner)
                scalars = [lagrangian, inner]
            self._weighed = {"support": weigh_support, "query": weigh_query}
            self._scalars, self._outer = scalars, outer.sum()
            uses_rows = any(
                grad(d, lam, retain_graph=True, allow_unused=True)[0] is not None for d in depends if d.requires_grad
            )
            self.uses_rows = uses_rows or jacobian == "identity"
            self.explicit = ([lam] if self.uses_rows else []) + (features if learner.encodes else [])
            self._theta = theta
            self._predict = lambda: learner.predict(lam, theta, features[1])
            self._output_loss = learner.output_loss
            self._query_scale = query_weights.detach() / query_weights.shape[-1]
            self._outputs: tuple[Tensor, Tensor, list[Tensor]] | None = None
            self._first = gradients(lagrangian, [*self.explicit, theta], create_graph=True)

    @cached_property
    def _plain(self) -> list[Tensor]:
        """∇outer, where `_first` is ∇ℒ."""
        if self.jacobian != "total":
            return self._first
        with torch.enable_grad():
            return gradients(self._outer, [*self.explicit, self._theta], create_graph=True)

    def gradient(self) -> list[Tensor]:
        """Total gradient of each task's loss by each explicit part: [n, ...]."""
        parts = [part.detach() for part in self._first[:-1]]
        if self.jacobian == "identity":
            parts[0] = parts[0] + self._first[-1].detach()
        return parts

    def held_gradient(self, form: Form) -> list[Tensor]:
        """What a product's second derivatives of the explicit parts are weighed with: ∇ℒ, or ∇outer; [n, ...]."""
        return self.gradient() if form == "exact" else [part.detach() for part in self._plain[:-1]]

    @property
    def separates(self) -> bool:
        """A query instance's loss depends on its own features and on nothing else that depends on λ."""
        return self.jacobian == "held" and not self.uses_rows and len(self.explicit) == 2

    def query_gradients(self) -> Tensor:
        """∂ℓ_j/∂Z_j over the number of queries for each query instance, where it `separates`: [n, n_q, ...]."""
        with torch.enable_grad():
            (by_weight,) = gradients(self._outer, [self._weighed["query"]], create_graph=True)
            return gradients(by_weight.sum(), self.explicit[1:])[0]

    def instance_gradients(self, level: Level) -> list[Tensor]:
        """D_(λ,Z) ∂ℒ/∂ω for the weight ω of every support or query instance: [instances, n, ...].

        Moving ω moves θ by θ_ω = −H_in⁻¹ ∂_θ∂_ω inner, so the total derivative is Jᵀ (ℒ_·ω + ∇²ℒ [0; θ_ω]).
        """
        weight = self._weighed[level]
        tasks, count = weight.shape
        each = torch.eye(count).to(weight).unsqueeze(1).expand(-1, tasks, -1)
        with torch.enable_grad():
            by_weight, *inner_by_weight = (gradients(s, [weight], create_graph=True)[0] for s in self._scalars)
        variables = [*self.explicit, self._theta]
        parts = batched_vjp([by_weight], variables, [each])
        if inner_by_weight:
            (moved,) = batched_vjp(inner_by_weight, [self._theta], [each])
            bent = batched_vjp(self._first[-1:], variables, [-self._solve_inner(moved)])
            parts = [a + b for a, b in zip(parts, bent, strict=True)]
        return self._close(parts)

    def slopes(self, tangents: list[Tensor]) -> Tensor:
        """The total derivative of every task's loss along tangents of the explicit parts, [k, n]."""
        found = [(g * t).flatten(2).sum(dim=2) for g, t in zip(self.gradient(), tangents, strict=True)]
        return torch.stack(found).sum(dim=0) if found else self._theta.new_zeros(1, 1)

    def instance_slopes(self, tangents: list[Tensor], level: Level) -> Tensor:
        """`instance_gradients` along tangents of the explicit parts, all instances at once: [k, n, instances].

        The same derivative taken the other way round: by ω, of the total derivative along the tangents.
        """
        weight = self._weighed[level]
        along = [*tangents, self._adapted_tangent(tangents)]
        if self.jacobian != "total":
            return batched_vjp(self._first, [weight], along)[0]
        found, bent = batched_vjp(self._first, [weight, self._theta], along)
        return found + batched_vjp([self._inner_gradient], [weight], [-self._solve_inner(bent)])[0]

    def product(self, tangents: list[Tensor], weights: Tensor, form: Form) -> list[Tensor]:
        """The total Hessian times tangents of the explicit parts, [k, n, ...] each; weights [n]."""
        if not self.explicit:
            return []
        if form == "gauss-newton":
            return self._gauss_newton(tangents, weights)
        first = self._first if form == "exact" else self._plain
        theta = self._adapted_tangent(tangents)
        weighted = [t * weights.reshape(1, -1, *([1] * (t.dim() - 2))) for t in [*tangents, theta]]
        return self._close(batched_vjp(first, [*self.explicit, self._theta], weighted))

    def _gauss_newton(self, tangents: list[Tensor], weights: Tensor) -> list[Tensor]:
        """Jᵀ (∂f)ᵀ ∂²loss (∂f) J times tangents, f the outputs for the query."""
        if self._output_loss is None:
            raise InputError(
                "gauss-newton needs an outer loss of the outputs; this learner declares no output_loss. Use exact."
            )
        variables = [*self.explicit, self._theta]
        if self._outputs is None:
            with torch.enable_grad():
                outputs = self._predict()
                dual = torch.zeros_like(outputs, requires_grad=True)
                self._outputs = outputs, dual, gradients((outputs * dual).sum(), variables, create_graph=True)
        outputs, dual, pulled = self._outputs
        (moved,) = batched_vjp(pulled, [dual], [*tangents, self._adapted_tangent(tangents)])
        scale = (weights.unsqueeze(-1) * self._query_scale).unsqueeze(-1)
        return self._close(batched_vjp([outputs], variables, [scale * self._output_loss.curvature(outputs, moved)]))

    def _close(self, parts: list[Tensor]) -> list[Tensor]:
        """Jᵀ of cotangents of the explicit parts and of θ: θ's is carried over to the explicit parts."""
        *parts, theta_part = parts
        if self.jacobian == "total":
            back = batched_vjp([self._inner_gradient], self.explicit, [-self._solve_inner(theta_part)])
            parts = [p + b for p, b in zip(parts, back, strict=True)]
        elif self.jacobian == "identity":
            parts[0] = parts[0] + theta_part
        return parts

    def _adapted_tangent(self, tangents: list[Tensor]) -> Tensor:
        """dθ along the tangents, [k, n, Q]."""
        if self.jacobian == "total":
            # ℒ is linear in u: ∂/∂u of its explicit gradient is −∂_θ∂_(λ,Z) inner.
            (mixed,) = batched_vjp(self._first[:-1], [self._adjoint], tangents)
            return self._solve_inner(mixed)
        if self.jacobian == "identity":
            return tangents[0]
        return torch.zeros(tangents[0].shape[0], *self._theta.shape).to(self._theta)

    def _solve_inner(self, columns: Tensor) -> Tensor:
        """(∂²_θθ inner)⁻¹ of columns [k, n, Q], all tasks at once."""
        solution = self._solve.solve(columns.detach().movedim(0, -1))
        self.inner_residual = max(self.inner_residual, float(solution.residual.max()))
        return solution.value.movedim(-1, 0)

"""The bilevel problem at one λ: losses, the total gradient, responses of items, Hessian products."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from metafluence.bilevel.chunks import Chunks
from metafluence.bilevel.hessian import Hessian
from metafluence.bilevel.linearisation import Form, Jacobian
from metafluence.bilevel.memory import MemoryPlan
from metafluence.learners import Adaptation, MetaLearner
from metafluence.networks import LayerStack
from metafluence.runtime import join_rows
from metafluence.tasks import WEIGHED, Level, Removal, Weights, check_removals

if TYPE_CHECKING:
    from metafluence.bilevel.problem import BilevelProblem


class Point:
    """A problem at one λ and one set of weights: losses, the total gradient, responses of items, Hessian products.

    `problem.at(meta)` makes it. Attributes: problem, meta [P], weights, chunks. Tasks adapt, and graphs are built, when
    something first needs them; see `Chunks`. For an unrolled learner ask for the gradient before the losses: the losses
    then reuse its steps.
    """

    def __init__(self, problem: BilevelProblem, meta: Tensor, weights: Weights, init: Tensor | None) -> None:
        problem.check(meta)
        self.problem = problem
        self.meta = meta
        self.weights = weights
        share = problem.share(meta, weights)
        plan = MemoryPlan.for_products(share.size, problem.bytes_per_task(meta), problem.memory_gib, meta.device)
        self.chunks = Chunks(
            share, lambda where, start: problem.chunk(meta, weights, where, start), plan, init, self._searches
        )

    def __len__(self) -> int:
        """N, the number of tasks."""
        return len(self.problem.tasks)

    @property
    def learner(self) -> MetaLearner:
        return self.problem.learner

    @property
    def _searches(self) -> bool:
        """Whether tasks search for an optimum, which they find sooner from a θ near it."""
        return bool(self.learner.adapted_size) and not self.learner.unrolls

    @cached_property
    def adaptation(self) -> Adaptation:
        def own() -> list[Tensor]:
            def parts() -> Iterator[tuple[Tensor, ...]]:
                for found in (chunk.adaptation for chunk in self.chunks):
                    most = torch.full_like(found.converged, found.iterations, dtype=torch.long)
                    yield found.adapted, found.gradient_norm, found.converged, most

            return join_rows(parts())

        adapted, gradient_norm, converged, iterations = self.chunks.share.gather_each("adaptation", own)
        return Adaptation(adapted, gradient_norm, converged, int(iterations.max()))

    @cached_property
    def _evaluated(self) -> tuple[Tensor, Tensor, Tensor]:
        def own() -> list[Tensor]:
            return join_rows((chunk.adapted, chunk.losses(), chunk.predictions()) for chunk in self.chunks)

        adapted, losses, outputs = self.chunks.share.gather_each("evaluation", own)
        return adapted, losses, outputs

    @property
    def adapted(self) -> Tensor:
        """θ_i, [N, Q]."""
        return self._evaluated[0]

    @property
    def task_losses(self) -> Tensor:
        """L_O^i, [N]."""
        return self._evaluated[1]

    @property
    def predictions(self) -> Tensor:
        """Outputs for the query instances, [N, n_q, ...]."""
        return self._evaluated[2]

    @property
    def objective(self) -> float:
        """F at this point."""
        penalty = self.problem.l2 / 2 * self.meta.square().sum()
        return float((self.weights.task * self.task_losses).sum() + penalty)

    @cached_property
    def gradient(self) -> Tensor:
        """Total gradient of F, [P]."""
        return self.partial_gradient("total") + self.problem.l2 * self.meta

    def partial_gradient(self, jacobian: Jacobian) -> Tensor:
        """Σ_i w_i D_λ L_O^i under the given dθ/dλ, without the l2 term, [P]."""

        def own() -> Tensor:
            total = torch.zeros_like(self.meta)
            for chunk in self.chunks:
                total += chunk.gradient(jacobian)
            return total

        return self.chunks.share.sum(f"gradient {jacobian}", own)

    def output_gradient(self, cotangents: Tensor) -> Tensor:
        """Σ_i D_λ ⟨c_i, f_i⟩, [P], for cotangents c [N, n_q, C] of the `predictions` f; θ moves with λ."""

        def own() -> Tensor:
            total = torch.zeros_like(self.meta)
            for chunk in self.chunks:
                total += chunk.output_gradient(cotangents[chunk.where])
            return total

        return self.chunks.share.sum("output gradient", own, cotangents)

    def item_weights(self, level: Level = "task") -> Tensor:
        """ω of every item of the level, [items], in the order of `responses`; removing an item changes it by −ω.

        An image or a class is a factor, 1, of the weights of all of its places.
        """
        return self.weights.of(level)

    def task_gradients(self, jacobian: Jacobian = "total") -> Tensor:
        """D_λ L_O^i of every task, per unit weight, [P, N]: the responses of tasks."""
        return self.responses("task", jacobian)

    def responses(self, level: Level = "task", jacobian: Jacobian = "total") -> Tensor:
        """r_ω = D_λ ∂F/∂ω for the weight ω of every item, [P, items], in the order that Weights numbers them.

        To first order, λ(after removing the item) − λ* = ω (δI + H_Total)⁻¹ r_ω.
        """
        return self.projected(lambda rows: rows, level, jacobian).T

    def projected(
        self, project: Callable[[Tensor], Tensor], level: Level = "task", jacobian: Jacobian = "total"
    ) -> Tensor:
        """`project`, a linear map of rows [m, P] to [m, k], of the responses, a few items at a time: [items, k]."""

        def own(inner: Level) -> Tensor:
            rows = self.chunks.rows(inner, jacobian)
            return self.chunks.share.gather(
                f"responses {inner} {jacobian}", lambda: join_rows([project(some)] for some in rows)[0]
            )

        return self._gathered(level, own)

    def _gathered(self, level: Level, values: Callable[[Level], Tensor]) -> Tensor:
        """Derivatives by weights, [items, k]; those by the factor of an image or a class are sums over its places."""
        if level in WEIGHED:
            return values(level)
        return self.weights.gather(level, lambda inner: self.item_weights(inner).unsqueeze(1) * values(inner))

    def removed(self, removals: Sequence[Removal], level: Level = "task", jacobian: Jacobian = "total") -> Tensor:
        """Σ ω r_ω over the items of each removal, [P, removals]: D_λ of the removed part of F, to first order.

        An item named twice in a removal counts once. Costs about one gradient per removal; for many removals the
        responses of all items are formed instead, where that takes fewer passes.
        """
        removals = check_removals(removals, len(self.item_weights(level)), level, nothing=True)
        parts = [self.weights.parts(level, removal) for removal in removals]
        found = [
            self.chunks.removed([part[inner] for part in parts], self.item_weights(inner), inner, jacobian)
            for inner in parts[0]
        ]
        return torch.stack(found).sum(dim=0).T

    def removal_slopes(self, columns: Tensor, level: Level = "task", jacobian: Jacobian = "total") -> Tensor:
        """`removed`ᵀ V of every item on its own, for V [P, k]: ω times `slopes`, [items, k]."""
        return self.item_weights(level).unsqueeze(1) * self.slopes(columns, level, jacobian)

    def slopes(self, columns: Tensor, level: Level = "task", jacobian: Jacobian = "total") -> Tensor:
        """`responses(level)`ᵀ V for V [P, k], [items, k]: derivatives by ω, without forming the responses.

        Costs about one Hessian product per column, however many items there are. For more columns than passes that form
        the responses, they are formed, a few at a time.
        """
        return self._gathered(level, lambda inner: self.chunks.slopes(columns.T.contiguous(), inner, jacobian))

    @cached_property
    def _instance_losses(self) -> dict[Level, Tensor]:
        """Of support and of query instances, [N, n] each: both from one pass over the tasks."""

        def own() -> list[Tensor]:
            return join_rows(
                (chunk.instance_losses("support"), chunk.instance_losses("query")) for chunk in self.chunks
            )

        support, query = self.chunks.share.gather_each("losses of instances", own)
        return {"support": support, "query": query}

    def item_losses(self, level: Level = "task") -> Tensor:
        """The loss of every item after adaptation, in nats, [items]: of a task its outer loss, else the instance's.

        Of an image or a class the mean over its places; zero where it has none, and of padding.
        """

        def own(inner: Level) -> Tensor:
            if inner == "task":
                return self.task_losses
            each = self._instance_losses[inner]
            return torch.where(self.problem.tasks.held(inner), each, 0).flatten()

        if level in WEIGHED:
            return own(level)
        places = self.weights.gather(level, lambda inner: torch.ones_like(self.item_weights(inner)))
        return self.weights.gather(level, own) / places.clamp_min(1)

    def outer_gradients(self) -> Tensor:
        """∂_θ L_O of every task, [N, Q]."""
        return self.chunks.share.gather(
            "outer gradients", lambda: join_rows([chunk.outer_gradient()] for chunk in self.chunks)[0]
        )

    def outer_layers(self) -> LayerStack:
        """The layers behind F with θ held, over all query instances as one task."""
        query, l2 = self.problem.tasks.query, self.problem.l2
        return self.learner.outer_layers(self.meta, self.adapted, query, self.weights.query_shares, l2)

    def hessian(self, jacobian: Jacobian = "total", form: Form = "exact") -> Hessian:
        """δI + Σ_i w_i H_i, matrix-free: with both defaults the exact total Hessian."""
        return Hessian(self, jacobian, form)

    def product(self, columns: Tensor, jacobian: Jacobian, form: Form = "exact") -> Tensor:
        """(δI + Σ_i w_i H_i) V for V [P, k]."""
        rows = columns.T.contiguous()
        return (self.problem.l2 * rows + self.chunks.product(rows, jacobian, form)).T

    def product_each(self, columns: Tensor, jacobian: Jacobian = "total") -> Tensor:
        """w_i H_i v_i, each task with its own column: V [P, N] to [P, N], without the l2 term."""
        rows = columns.T

        def own() -> Tensor:
            return join_rows([chunk.product_each(rows[chunk.where], jacobian)] for chunk in self.chunks)[0]

        return self.chunks.share.gather(f"products {jacobian}", own, columns).T

    def near(self, meta: Tensor) -> Point:
        """The problem at another λ, with these weights; a learner that searches for an optimum starts from θ here."""
        return self.problem.at(meta, self.weights, self.adapted if self._searches else None)

    def part(self, tasks: Tensor, scale: float) -> Point:
        """The same λ with some of the tasks, their weights times `scale`."""
        problem, kept = self.problem, self.weights[tasks]
        memory_gib = problem.memory_gib * len(tasks) / len(self)
        part = replace(problem, tasks=problem.tasks[tasks], memory_gib=memory_gib)
        return Point(part, self.meta, replace(kept, task=scale * kept.task), self.adapted[tasks])

    def cast(self, dtype: torch.dtype) -> Point:
        """The same λ in another precision, in which the tasks adapt again from where they are."""
        meta = self.meta.to(dtype)
        return Point(self.problem.cast(dtype), meta, self.weights.to(meta), self.adapted.to(dtype))

    @property
    def is_explicit(self) -> bool:
        """Whether the outer loss depends on λ with θ held, so that Direct-IF has something to differentiate."""
        return bool(next(iter(self.chunks)).linearise("held").explicit)

    def inner_residual(self) -> float:
        """Largest relative residual of the inner solves made so far; NaN where graphs are not kept."""

        def own() -> Tensor:
            largest = max((c.linearise("total").inner_residual for c in self.chunks.kept), default=float("nan"))
            return self.meta.new_full((self.chunks.share.size,), largest)

        return float(self.chunks.share.gather("inner residual", own).max())

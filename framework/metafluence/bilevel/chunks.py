"""A chunk of tasks at one λ: encoded, adapted and linearised together."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property

import torch
from torch import Tensor

from metafluence.bilevel.encoder import Encoder
from metafluence.bilevel.implicit_linearisation import ImplicitHead
from metafluence.bilevel.linearisation import Form, Head, Jacobian
from metafluence.bilevel.unrolled_linearisation import UnrolledHead
from metafluence.errors import InputError
from metafluence.learners import Adaptation, ImplicitLearner, MetaLearner
from metafluence.linalg import Solver
from metafluence.tasks import Batch, Level, TaskSet, Weights


class Chunk:
    """A few tasks at a point: their encoder pass, their adaptation, and one linearisation per Jacobian.

    Whatever is asked first adapts them, once: a learner that unrolls is best asked for its gradient before its losses,
    which then follow from the same steps.
    """

    def __init__(
        self,
        learner: MetaLearner,
        inner_solver: Solver,
        tasks: TaskSet,
        meta: Tensor,
        weights: Weights,
        where: slice,
        init: Tensor | None,
    ) -> None:
        self._learner, self._inner_solver = learner, inner_solver
        self.where = where
        support, query = tasks.support[where], tasks.query[where]
        self.weights = weights[where]
        self.rows = meta[learner.own].expand(support.inputs.shape[0], -1)
        self._encoder = Encoder(learner, meta, support, query)
        self.support = Batch(self._encoder.support, support.targets)
        self.query = Batch(self._encoder.query, query.targets)
        self._init = None if init is None else init[where]
        self._heads: dict[Jacobian, Head] = {}
        self._holding: tuple[Jacobian, Form] | None = None

    @cached_property
    def adaptation(self) -> Adaptation:
        with torch.no_grad():
            return self._learner.adapt(self.rows, self.support, self.weights.support, self._init)

    @property
    def adapted(self) -> Tensor:
        """θ [n, Q]."""
        return self._heads["total"].adapted if "total" in self._heads else self.adaptation.adapted

    def losses(self) -> Tensor:
        """Outer losses [n]."""
        if "total" in self._heads:
            return self._heads["total"].losses
        with torch.no_grad():
            return self._learner.outer_loss(self.rows, self.adapted, self.query, self.weights.query)

    def predictions(self) -> Tensor:
        """Outputs for the query instances, [n, n_q, ...]."""
        with torch.no_grad():
            return self._learner.predict(self.rows, self.adapted, self.query.inputs)

    def linearise(self, jacobian: Jacobian) -> Head:
        if not self._learner.adapted_size:
            jacobian = "held"  # nothing adapts, so the two are one
        if jacobian not in self._heads:
            self._heads[jacobian] = self._head(jacobian)
        return self._heads[jacobian]

    def _head(self, jacobian: Jacobian) -> Head:
        learner = self._learner
        parts = (self.rows, self.support, self.query, self.weights)
        if jacobian != "total":
            return Head(learner, *parts, self.adapted, jacobian)
        if learner.unrolls:
            return UnrolledHead(learner, *parts)
        if isinstance(learner, ImplicitLearner):
            return ImplicitHead(learner, *parts, self.adapted, self._inner_solver)
        raise InputError(
            f"{type(learner).__name__} neither unrolls nor is an ImplicitLearner, so dθ/dλ is not known. "
            "Give it `unroll` and set unrolls, or an inner_loss."
        )

    def ready(self) -> None:
        """Build all that products keep."""
        self.product(self._encoder.zeros(1), "total", "exact")

    def gradient(self, jacobian: Jacobian) -> Tensor:
        """Σ_i w_i D_λ L_O^i, [P]."""
        head = self.linearise(jacobian)
        lam, features = _split(head, head.gradient())
        pulled = self._encoder.pull([self._weigh(f) for f in features])
        return self._with_rows(pulled, None if lam is None else self._weigh(lam).sum(dim=0))

    def gradients(self, jacobian: Jacobian) -> Tensor:
        """D_λ L_O^i of every task, unweighted, [n, P]."""
        head = self.linearise(jacobian)
        lam, features = _split(head, head.gradient())
        pulled = self._encoder.pull_each(features)
        return self._with_rows(pulled, lam)

    def instance_gradients(self, level: Level, jacobian: Jacobian) -> Iterator[Tensor]:
        """w_i D_λ ∂L_O^i/∂ω for the weight of every instance, in order: some rows [instances, P] at a time."""
        head = self.linearise(jacobian)
        if level == "query" and head.separates:
            yield from self._encoder.pull_queries(self._weigh(head.query_gradients()))
            return
        lam, features = _split(head, head.instance_gradients(level))
        pulled = []
        for j in range(getattr(self.weights, level).shape[1]):
            own = self._encoder.pull_each([f[j] for f in features])
            pulled.append(self._weigh(self._with_rows(own, None if lam is None else lam[j])))
        yield torch.stack(pulled, dim=1).flatten(0, 1)

    def sums(self, picked: Tensor, level: Level, jacobian: Jacobian) -> Tensor:
        """Picked [k, items] times `gradients` or `instance_gradients`, without forming them: [k, P]."""
        head = self.linearise(jacobian)
        if level == "task":
            own = head.gradient()
            parts = [picked.reshape(*picked.shape, *[1] * (g.dim() - 1)) * g for g in own]
        else:
            weighed = picked.unflatten(1, (len(self.rows), -1)) * self.weights.task.unsqueeze(-1)
            parts = head.instance_gradients(level, weighed)
        lam, features = _split(head, parts)
        pulled = self._encoder.pull_columns(features) if features else self._encoder.zeros(len(picked))
        return self._with_rows(pulled, None if lam is None else lam.sum(dim=1))

    def slopes(self, columns: Tensor, level: Level, jacobian: Jacobian) -> Tensor:
        """`gradients` or `instance_gradients` times columns [k, P], without forming them: [items, k]."""
        head = self.linearise(jacobian)
        weights = getattr(self.weights, level)
        if not head.explicit:
            return columns.new_zeros(weights.numel(), len(columns))
        tangents = self._tangents(head, columns, "exact")
        if level == "task":
            return head.slopes(tangents).T
        return (head.instance_slopes(tangents, level) * self.weights.task.unsqueeze(-1)).flatten(1).T

    def instance_losses(self, level: Level) -> Tensor:
        """The loss of every support or query instance after adaptation, [n, instances]: the ∂/∂ω of its task's loss.

        A support instance counts as it would if the query held it.
        """
        half = self.support if level == "support" else self.query
        ones = torch.ones_like(getattr(self.weights, level)).requires_grad_()
        with torch.enable_grad():
            loss = self._learner.outer_loss(self.rows, self.adapted, half, ones)
            (each,) = torch.autograd.grad(loss.sum(), ones)
        return each * ones.shape[1]

    def outer_gradient(self) -> Tensor:
        """∂_θ L_O of every task, [n, Q]."""
        return self.linearise("total").outer_gradient if self._learner.adapted_size else torch.zeros_like(self.adapted)

    def product(self, columns: Tensor, jacobian: Jacobian, form: Form) -> Tensor:
        """Σ_i w_i H_i v for each column, [k, P]."""
        head = self.linearise(jacobian)
        tangents = self._tangents(head, columns, form)
        lam, features = _split(head, head.product(tangents, self.weights.task, form))
        if form == "gauss-newton":
            found = self._encoder.pull_columns(features) if features else torch.zeros_like(columns)
        else:
            found = self._encoder.product(columns, features)
        return self._with_rows(found, None if lam is None else lam.sum(dim=1))

    def product_each(self, rows: Tensor, jacobian: Jacobian) -> Tensor:
        """w_i H_i v_i of every task with its own column, [n, P] to [n, P]; H_i exact."""
        head = self.linearise(jacobian)
        own = [rows[:, self._learner.own].unsqueeze(0)] if head.uses_rows else []
        parts = head.product([*own, *self._encoder.push_each(rows)], self.weights.task, "exact")
        lam, features = _split(head, [p[0] for p in parts])
        held = [self._weigh(f) for f in _split(head, head.gradient())[1]]
        found = self._encoder.product_each(rows, held, features)
        return self._with_rows(found, lam)

    def _with_rows(self, found: Tensor, rows: Tensor | None) -> Tensor:
        """What came through the encoder, [..., P], and what came through the rows, [..., R], where they count."""
        if rows is None:
            return found
        own = self._learner.own
        return torch.cat([found[..., : own.start or 0], found[..., own] + rows], dim=-1)

    def _tangents(self, head: Head, columns: Tensor, form: Form) -> list[Tensor]:
        """The explicit parts' tangents along columns [k, P]: [k, n, ...] each."""
        held = "exact" if form == "gauss-newton" else form  # which has no second derivatives of the encoder
        if self._holding != (head.jacobian, held):
            self._encoder.hold([self._weigh(f) for f in _split(head, head.held_gradient(held))[1]])
            self._holding = (head.jacobian, held)
        own = columns[:, self._learner.own].unsqueeze(1).expand(-1, len(self.rows), -1)
        rows = [own] if head.uses_rows else []
        return [*rows, *self._encoder.push(columns)]

    def _weigh(self, part: Tensor) -> Tensor:
        return part * self.weights.task.reshape(-1, *([1] * (part.dim() - 1)))


def _split(head: Head, parts: list[Tensor]) -> tuple[Tensor | None, list[Tensor]]:
    """The part of the rows λ, if the losses depend on them, and those of the features."""
    return (parts[0], parts[1:]) if head.uses_rows else (None, parts)

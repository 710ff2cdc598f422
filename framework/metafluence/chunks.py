"""A chunk of tasks at one λ: encoded, adapted and linearised together."""

from __future__ import annotations

import torch
from torch import Tensor

from metafluence.learners import ImplicitLearner
from metafluence.linearisation import Encoder, Head, Jacobian
from metafluence.solving import Solver
from metafluence.tasks import Batch, Level, TaskSet, Weights


class Chunk:
    """A few tasks at a point: their encoder pass, their adaptation, and one linearisation per Jacobian."""

    def __init__(
        self,
        learner: ImplicitLearner,
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
        self.rows = meta.expand(support.inputs.shape[0], -1)
        self._encoder = Encoder(learner, meta, support, query)
        self.support = Batch(self._encoder.support, support.targets)
        self.query = Batch(self._encoder.query, query.targets)
        with torch.no_grad():
            self.adaptation = learner.adapt(
                self.rows, self.support, self.weights.support, None if init is None else init[where]
            )
        self._heads: dict[Jacobian, Head] = {}
        self._holding: Jacobian | None = None

    @property
    def adapted(self) -> Tensor:
        return self.adaptation.adapted

    def losses(self) -> Tensor:
        """Outer losses [n]."""
        with torch.no_grad():
            return self._learner.outer_loss(self.rows, self.adapted, self.query, self.weights.query)

    def predictions(self) -> Tensor:
        """Outputs for the query instances, [n, n_q, ...]."""
        with torch.no_grad():
            return self._learner.predict(self.rows, self.adapted, self.query.inputs)

    def linearise(self, jacobian: Jacobian) -> Head:
        if jacobian not in self._heads:
            self._heads[jacobian] = Head(
                self._learner,
                self.rows,
                self.support,
                self.query,
                self.weights.support,
                self.weights.query,
                self.adapted,
                jacobian,
                self._inner_solver,
            )
        return self._heads[jacobian]

    def gradient(self, jacobian: Jacobian) -> Tensor:
        """Σ_i w_i D_λ L_O^i, [P]."""
        head = self.linearise(jacobian)
        lam, features = _split(head, head.gradient())
        pulled = self._encoder.pull([self._weigh(f) for f in features])
        return pulled if lam is None else pulled + self._weigh(lam).sum(dim=0)

    def gradients(self, jacobian: Jacobian) -> Tensor:
        """D_λ L_O^i of every task, unweighted, [n, P]."""
        head = self.linearise(jacobian)
        lam, features = _split(head, head.gradient())
        pulled = self._encoder.pull_each(features)
        return pulled if lam is None else pulled + lam

    def instance_gradients(self, level: Level) -> Tensor:
        """w_i D_λ ∂L_O^i/∂ω for the weight of every instance, [n * instances, P]."""
        head = self.linearise("total")
        lam, features = _split(head, head.instance_gradients(level))
        pulled = []
        for j in range(getattr(self.weights, level).shape[1]):
            own = self._encoder.pull_each([f[j] for f in features])
            pulled.append(self._weigh(own if lam is None else own + lam[j]))
        return torch.stack(pulled, dim=1).flatten(0, 1)

    def gauss_newton(self, columns: Tensor, jacobian: Jacobian) -> Tensor:
        """Σ_i w_i Jᵀ (GGN of L_O^i) J v for each column, [k, P]."""
        head = self.linearise(jacobian)
        self._hold(head)
        rows = [columns.unsqueeze(1).expand(-1, len(self.rows), -1)] if head.uses_rows else []
        lam, features = _split(head, head.gauss_newton([*rows, *self._encoder.push(columns)], self.weights.task))
        found = self._encoder.pull_columns(features) if features else torch.zeros_like(columns)
        return found if lam is None else found + lam.sum(dim=1)

    def product(self, columns: Tensor, jacobian: Jacobian) -> Tensor:
        """Σ_i w_i H_i v for each column, [k, P]."""
        head = self.linearise(jacobian)
        self._hold(head)
        rows = [columns.unsqueeze(1).expand(-1, len(self.rows), -1)] if head.uses_rows else []
        lam, features = _split(head, head.product([*rows, *self._encoder.push(columns)], self.weights.task))
        found = self._encoder.product(columns, features)
        return found if lam is None else found + lam.sum(dim=1)

    def product_each(self, rows: Tensor, jacobian: Jacobian) -> Tensor:
        """w_i H_i v_i of every task with its own column, [n, P] to [n, P]."""
        head = self.linearise(jacobian)
        own = [rows.unsqueeze(0)] if head.uses_rows else []
        parts = [p[0] for p in head.product([*own, *self._encoder.push_each(rows)], self.weights.task)]
        lam, features = _split(head, parts)
        held = [self._weigh(f) for f in _split(head, head.gradient())[1]]
        found = self._encoder.product_each(rows, held, features)
        return found if lam is None else found + lam

    def _hold(self, head: Head) -> None:
        if self._holding != head.jacobian:
            self._encoder.hold([self._weigh(f) for f in _split(head, head.gradient())[1]])
            self._holding = head.jacobian

    def _weigh(self, part: Tensor) -> Tensor:
        return part * self.weights.task.reshape(-1, *([1] * (part.dim() - 1)))


def _split(head: Head, parts: list[Tensor]) -> tuple[Tensor | None, list[Tensor]]:
    """The part of the rows λ, if the losses depend on them, and those of the features."""
    return (parts[0], parts[1:]) if head.uses_rows else (None, parts)

"""The shared encoder at one λ: features of all tasks' images, and the derivatives of λ ↦ features."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.autograd import grad
from torch.func import jvp, vjp, vmap

from metafluence.learners import MetaLearner
from metafluence.networks import batched_vjp, gradients
from metafluence.tasks import Batch

# Rows of per-instance gradients that are formed together.
ROW_BYTES = 2**27


class Encoder:
    """Z(λ) for the n tasks of a chunk. Columns are [k, P]; features are [n, n_s, ...] and [n, n_q, ...].

    All images go through the network together, unless it mixes the instances of a batch: then each task's support goes
    alone, and so does its query.
    """

    def __init__(self, learner: MetaLearner, meta: Tensor, support: Batch, query: Batch) -> None:
        self._learner = learner
        self._halves = (support.inputs, query.inputs)
        self._counts = tuple(h.shape[0] * h.shape[1] for h in self._halves)
        self._lead = tuple(h.shape[:2] for h in self._halves)
        self._meta = meta.detach().requires_grad_(learner.encodes)
        with torch.enable_grad():
            if learner.mixes_instances and learner.encodes:
                alone = vmap(learner.encode, in_dims=(None, 0))
                self._features = torch.cat([alone(self._meta, h).flatten(0, 1) for h in self._halves])
            else:
                flat = torch.cat([h.flatten(0, 1) for h in self._halves])
                self._features = learner.encode(self._meta, flat)
        self._held: tuple[Tensor, Tensor] | None = None
        self.support, self.query = (part.detach() for part in self._split(self._features))

    def zeros(self, columns: int) -> Tensor:
        """Columns of nothing, [columns, P]."""
        return torch.zeros(columns, self._meta.numel()).to(self._meta)

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
        meta = self._meta.detach()
        if self._learner.mixes_instances:
            found = [self._learner.pull_each(meta, h, g) for h, g in zip(self._halves, cotangents, strict=True)]
            return found[0] + found[1]
        return self._learner.pull_each(meta, torch.cat(self._halves, dim=1), torch.cat(cotangents, dim=1))

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
        if self._learner.mixes_instances:
            return self._learner.encode(meta, support), self._learner.encode(meta, query)
        features = self._learner.encode(meta, torch.cat([support, query]))
        return features[: support.shape[0]], features[support.shape[0] :]

    def _split(self, features: Tensor, lead: int = 0) -> tuple[Tensor, ...]:
        parts = features.split(self._counts, dim=lead)
        return tuple(p.unflatten(lead, shape) for p, shape in zip(parts, self._lead, strict=True))

    def _join(self, parts: list[Tensor], lead: int) -> Tensor:
        return torch.cat([part.flatten(lead, lead + 1) for part in parts], dim=lead)

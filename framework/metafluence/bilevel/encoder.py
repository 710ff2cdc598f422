"""The shared encoder at one λ: features of all tasks' images, and the derivatives of λ ↦ features."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property

import torch
from torch import Tensor
from torch.autograd import grad
from torch.func import jvp, vjp, vmap

from metafluence.learners import MetaLearner
from metafluence.networks import Cotangents, batched_vjp, gradients
from metafluence.runtime import ROW_BYTES, count_within
from metafluence.tasks import Batch


class Encoder:
    """Z(λ) for the n tasks of a chunk, and products with J = ∂Z/∂λ. Images are encoded when something first needs it.

    Columns are [k, P]; features are the two stacks [n, n_s, ...] and [n, n_q, ...]; lists of features are empty for a
    learner without an encoder. All images go through the network together, unless it mixes the instances of a batch:
    then each task's support goes alone, and so does its query; or both in one call, if the learner says so.
    """

    def __init__(self, learner: MetaLearner, meta: Tensor, support: Batch, query: Batch) -> None:
        self._learner = learner
        self._halves = (support.inputs, query.inputs)
        self._counts = tuple(h.shape[0] * h.shape[1] for h in self._halves)
        self._lead = tuple(h.shape[:2] for h in self._halves)
        self._halves_alone = learner.mixes_instances and not learner.encodes_together
        self.meta = meta.detach().requires_grad_(learner.encodes)

    @cached_property
    def features(self) -> Tensor:
        """Z of all images, support first, as a function of λ."""
        with torch.enable_grad():
            if self._learner.mixes_instances and self._learner.encodes:
                alone = vmap(self._learner.encode, in_dims=(None, 0))
                if self._halves_alone:
                    return torch.cat([alone(self.meta, h).flatten(0, 1) for h in self._halves])
                both = alone(self.meta, torch.cat(self._halves, dim=1))
                return self.join(list(both.split([h.shape[1] for h in self._halves], dim=1)), 0)
            return self._learner.encode(self.meta, torch.cat([h.flatten(0, 1) for h in self._halves]))

    def zeros(self, columns: int) -> Tensor:
        """Zeros [columns, P]."""
        return torch.zeros(columns, self.meta.numel()).to(self.meta)

    def pullback(self, cotangents: list[Tensor]) -> Tensor:
        """Jᵀ g, [P], for the cotangents of the two feature stacks."""
        if not cotangents:
            return torch.zeros_like(self.meta)
        (found,) = gradients((self.features * self.join(cotangents, 0)).sum(), [self.meta])
        return found

    def weighed(self, cotangents: list[Tensor]) -> WeighedEncoder:
        """The encoder weighed with fixed cotangents g of the features, for products to second order."""
        if not cotangents:
            return WeighedEncoder(self, None)
        with torch.enable_grad():
            leaf = self.join(cotangents, 0).detach().requires_grad_()
            (pulled,) = grad(self.features, self.meta, leaf, create_graph=True)
        return WeighedEncoder(self, (leaf, pulled))

    def pullback_columns(self, cotangents: list[Tensor]) -> Tensor:
        """Jᵀ c for each column, [k, P]."""
        return batched_vjp([self.features], [self.meta], [self.join(cotangents, 1)])[0]

    def pullback_each(self, cotangents: list[Tensor]) -> Tensor:
        """Jᵀ g of every task on its own, [n, P]."""
        if not cotangents:
            return self.meta.new_zeros(self._lead[0][0], self.meta.numel())
        meta = self.meta.detach()
        if self._halves_alone:
            pairs = zip(self._halves, cotangents, strict=True)
            return torch.stack([self._learner.pull_each(meta, h, _known(g))[0] for h, g in pairs]).sum(dim=0)
        inputs, joined = torch.cat(self._halves, dim=1), torch.cat(cotangents, dim=1)
        return self._learner.pull_each(meta, inputs, _known(joined))[0]

    def pullback_queries(self, columns: int, cotangents: Cotangents) -> Iterator[Tensor]:
        """Jᵀ g of every query instance on its own, for as many cotangents g of each as `columns`.

        cotangents: g [columns, some, ...] of some instances, from their features [some, ...]; instances are counted
        task by task. They come some at a time: [columns, some, P]. Each goes through the network once.
        """
        inputs = self._halves[1].flatten(0, 1).unsqueeze(1)
        size = count_within(ROW_BYTES, columns * self.meta.numel() * self.meta.element_size())
        for start in range(0, len(inputs), size):

            def own(features: Tensor, some: slice, start: int = start) -> Tensor:
                return cotangents(features[:, 0], slice(start + some.start, start + some.stop)).unsqueeze(2)

            yield self._learner.pull_each(self.meta.detach(), inputs[start : start + size], own)

    @cached_property
    def parameter_uses(self) -> float:
        """How often an instance's pass multiplies by each parameter."""
        return self._learner.parameter_uses(self._halves[1].shape[2:])

    def pushforward_each(self, rows: Tensor) -> list[Tensor]:
        """J v_i for task i alone: rows [n, P] to tangents [1, n, n_s, ...] and [1, n, n_q, ...]."""
        if not self._learner.encodes:
            return []

        def one(support: Tensor, query: Tensor, row: Tensor) -> tuple[Tensor, Tensor]:
            return jvp(lambda m: self._encode_task(m, support, query), (self.meta.detach(),), (row,))[1]

        return [t.unsqueeze(0) for t in vmap(one)(*self._halves, rows)]

    def product_each(self, rows: Tensor, held: list[Tensor], cotangents: list[Tensor]) -> Tensor:
        """`WeighedEncoder.product` of every task on its own column, [n, P]; `held` are the tasks' own g."""
        if not cotangents:
            return torch.zeros_like(rows)

        def one(support: Tensor, query: Tensor, row: Tensor, g: list[Tensor], c: list[Tensor]) -> Tensor:
            def pulled(meta: Tensor) -> Tensor:
                return vjp(lambda m: self._encode_task(m, support, query), meta)[1](tuple(g))[0]

            meta = self.meta.detach()
            (first,) = vjp(lambda m: self._encode_task(m, support, query), meta)[1](tuple(c))
            return first + jvp(pulled, (meta,), (row,))[1]

        return vmap(one)(*self._halves, rows, held, cotangents)

    def _encode_task(self, meta: Tensor, support: Tensor, query: Tensor) -> tuple[Tensor, Tensor]:
        if self._halves_alone:
            return self._learner.encode(meta, support), self._learner.encode(meta, query)
        features = self._learner.encode(meta, torch.cat([support, query]))
        return features[: support.shape[0]], features[support.shape[0] :]

    def split(self, features: Tensor, lead: int = 0) -> tuple[Tensor, ...]:
        """All images' features as the two stacks; their dimension is preceded by `lead` others."""
        parts = features.split(self._counts, dim=lead)
        return tuple(p.unflatten(lead, shape) for p, shape in zip(parts, self._lead, strict=True))

    def join(self, parts: list[Tensor], lead: int) -> Tensor:
        """The inverse of `split`."""
        return torch.cat([part.flatten(lead, lead + 1) for part in parts], dim=lead)


def _known(cotangents: Tensor) -> Cotangents:
    """Cotangents [n, m, ...] that are known beforehand, one of each."""
    return lambda _, some: cotangents[some].unsqueeze(0)


class WeighedEncoder:
    """λ ↦ J(λ)ᵀ g for fixed cotangents g of the features, kept as a graph; its derivatives are made of J and ∂J/∂λ."""

    def __init__(self, encoder: Encoder, graph: tuple[Tensor, Tensor] | None) -> None:
        self._encoder = encoder
        self._graph = graph  # g and J(λ)ᵀ g; None without an encoder

    def pushforward(self, columns: Tensor) -> list[Tensor]:
        """J v for each column: the tangents of the two feature stacks, [k, n, n_s, ...] and [k, n, n_q, ...]."""
        if self._graph is None:
            return []
        leaf, pulled = self._graph
        (tangent,) = batched_vjp([pulled], [leaf], [columns])
        return list(self._encoder.split(tangent, 1))

    def product(self, columns: Tensor, cotangents: list[Tensor]) -> Tensor:
        """(∂/∂λ Jᵀ g) v + Jᵀ c for each column v and its cotangents c, [k, P]."""
        if self._graph is None:
            return torch.zeros_like(columns)
        encoder, (_, pulled) = self._encoder, self._graph
        joined = encoder.join(cotangents, 1)
        return batched_vjp([pulled, encoder.features], [encoder.meta], [columns, joined])[0]

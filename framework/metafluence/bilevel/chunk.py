"""A chunk of tasks at one λ: encoded, adapted and linearised together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property

import torch
from torch import Tensor

from metafluence.bilevel.encoder import Encoder, WeighedEncoder
from metafluence.bilevel.implicit_linearisation import ImplicitLinearisation
from metafluence.bilevel.linearisation import Form, HeldLinearisation, IdentityLinearisation, Jacobian, Linearisation
from metafluence.bilevel.query_alone import QueryAlone
from metafluence.bilevel.unrolled_linearisation import UnrolledLinearisation
from metafluence.errors import InputError
from metafluence.learners import Adaptation, ImplicitLearner, MetaLearner
from metafluence.linalg import Solver
from metafluence.tasks import Batch, Level, Weights


class Chunk:
    """A few tasks at a point, those at `where`: one encoder pass, one adaptation, and one linearisation per Jacobian.

    The tasks are encoded and adapt when something first needs it, once. A learner that unrolls adapts again to be
    differentiated: ask it for the gradient before the losses, which then reuse its steps.
    """

    def __init__(
        self,
        learner: MetaLearner,
        inner_solver: Solver,
        support: Batch,
        query: Batch,
        meta: Tensor,
        weights: Weights,
        where: slice,
        init: Tensor | None,
    ) -> None:
        self._learner, self._inner_solver = learner, inner_solver
        self.where, self.weights = where, weights
        self._halves = support, query
        self.rows = meta[learner.own].expand(len(self.weights.task), -1)
        self._encoder = Encoder(learner, meta, *self._halves)
        self._init = init
        self._linearisations: dict[Jacobian, Linearisation] = {}
        self._kind: tuple[Jacobian, Form] | None = None
        self._weighed: tuple[tuple[Linearisation, Form], WeighedEncoder] | None = None

    @cached_property
    def _encoded(self) -> list[Batch]:
        features = self._encoder.split(self._encoder.features.detach())
        return [Batch(part, half.targets) for part, half in zip(features, self._halves, strict=True)]

    @property
    def support(self) -> Batch:
        """The support's features."""
        return self._encoded[0]

    @property
    def query(self) -> Batch:
        """The query's features."""
        return self._encoded[1]

    @cached_property
    def adaptation(self) -> Adaptation:
        with torch.no_grad():
            return self._learner.adapt(self.rows, self.support, self.weights.support, self._init)

    @property
    def adapted(self) -> Tensor:
        """θ [n, Q]."""
        made = self._linearisations.get("total")
        return self.adaptation.adapted if made is None else made.adapted

    def losses(self) -> Tensor:
        """Outer losses [n]."""
        made = self._linearisations.get("total")
        if made is not None:
            return made.losses
        with torch.no_grad():
            return self._learner.outer_loss(self.rows, self.adapted, self.query, self.weights.query)

    def predictions(self) -> Tensor:
        """Outputs for the query instances, [n, n_q, ...]."""
        with torch.no_grad():
            return self._learner.predict(self.rows, self.adapted, self.query.inputs)

    def linearise(self, jacobian: Jacobian) -> Linearisation:
        """The losses' derivatives under this dθ/dλ, made once. Raises InputError where the true one is not known."""
        if not self._learner.adapted_size:
            jacobian = "held"  # nothing adapts, so that all are the same
        if jacobian not in self._linearisations:
            self._linearisations[jacobian] = self._linearise(jacobian)
        return self._linearisations[jacobian]

    def _for_products(self, jacobian: Jacobian, form: Form) -> Linearisation:
        """The same for products of this kind; graphs for those of another are dropped, so that they do not add up."""
        if self._kind not in (None, (jacobian, form)):
            for made in self._linearisations.values():
                made.drop_graphs()
        self._kind = (jacobian, form)
        return self.linearise(jacobian)

    def _linearise(self, jacobian: Jacobian) -> Linearisation:
        learner = self._learner
        parts = (self.rows, self.support, self.query, self.weights)
        if jacobian == "held":
            return HeldLinearisation(learner, *parts, self.adapted)
        if jacobian == "identity":
            return IdentityLinearisation(learner, *parts, self.adapted)
        if learner.unrolls:
            return UnrolledLinearisation(learner, *parts)
        if isinstance(learner, ImplicitLearner):
            return ImplicitLinearisation(learner, *parts, self.adapted, self._inner_solver)
        raise InputError(
            f"{type(learner).__name__} neither unrolls nor is an ImplicitLearner, so dθ/dλ is not known. "
            "Give it `unroll` and set unrolls, or an inner_loss."
        )

    def build_graphs(self) -> None:
        """Build all graphs that products keep."""
        self.product(self._encoder.zeros(1), "total", "exact")

    def passes(self, level: Level, jacobian: Jacobian) -> int:
        """How many passes form all responses: one for tasks and for instances that act alone, else one per instance."""
        alone = level == "task" or not self._learner.adapted_size or jacobian == "held"
        return 1 if alone else getattr(self.weights, level).shape[1]

    def responses(self, level: Level, jacobian: Jacobian) -> Iterator[Tensor]:
        """The responses of a few items at a time, in order, [m, P] each."""
        if level == "task":
            yield self.gradients(jacobian)
        else:
            yield from self.instance_gradients(level, jacobian)

    def gradient(self, jacobian: Jacobian) -> Tensor:
        """Σ_i w_i D_λ L_O^i, [P]."""
        at = self.linearise(jacobian)
        lam, features = _split(at, at.gradient)
        pulled = self._encoder.pullback([self._weigh(f) for f in features])
        return self._with_rows(pulled, None if lam is None else self._weigh(lam).sum(dim=0))

    def output_gradient(self, cotangents: Tensor) -> Tensor:
        """Σ_i D_λ ⟨c_i, f_i⟩, [P], for cotangents c [n, n_q, C] of the outputs f for the query; θ moves with λ."""
        at = self.linearise("total")
        lam, features = _split(at, at.pull_outputs(cotangents.unsqueeze(0)))
        found = self._encoder.pullback_columns(features) if features else self._encoder.zeros(1)
        return self._with_rows(found, None if lam is None else lam.sum(dim=1))[0]

    def gradients(self, jacobian: Jacobian) -> Tensor:
        """D_λ L_O^i of every task, unweighted, [n, P]."""
        at = self.linearise(jacobian)
        lam, features = _split(at, at.gradient)
        pulled = self._encoder.pullback_each(features)
        return self._with_rows(pulled, lam)

    def instance_gradients(self, level: Level, jacobian: Jacobian) -> Iterator[Tensor]:
        """w_i D_λ ∂L_O^i/∂ω for the weight of every instance, in order: some rows [instances, P] at a time."""
        if level == "query" and self._separates(jacobian):
            yield from (rows[0] for rows in self._encoder.pullback_queries(1, self._query_alone.cotangents))
            return
        at = self.linearise(jacobian)
        lam, features = _split(at, at.instance_gradients(level))
        pulled = []
        for j in range(getattr(self.weights, level).shape[1]):
            own = self._encoder.pullback_each([f[j] for f in features])
            pulled.append(self._weigh(self._with_rows(own, None if lam is None else lam[j])))
        yield torch.stack(pulled, dim=1).flatten(0, 1)

    def _separates(self, jacobian: Jacobian) -> bool:
        """Whether a query instance's loss depends on λ through its own features alone."""
        held = jacobian == "held" or not self._learner.adapted_size
        return held and self._query_separates

    @cached_property
    def _query_separates(self) -> bool:
        return self._query_alone.separates(self._encoder.meta)

    @cached_property
    def _query_alone(self) -> QueryAlone:
        # Where nothing adapts, no features are needed for θ.
        adapted = self.adapted if self._learner.adapted_size else self.rows[:, :0]
        return QueryAlone(self._learner, self.rows, adapted, self._halves[1], self.weights.task)

    def sums(self, picked: Tensor, level: Level, jacobian: Jacobian) -> Tensor:
        """Picked [k, items] times `gradients` or `instance_gradients`, without forming them: [k, P]."""
        at = self.linearise(jacobian)
        if level == "task":
            own = at.gradient
            parts = [picked.reshape(*picked.shape, *[1] * (g.dim() - 1)) * g for g in own]
        else:
            weighed = picked.unflatten(1, (len(self.rows), -1)) * self.weights.task.unsqueeze(-1)
            parts = at.instance_gradients(level, weighed)
        lam, features = _split(at, parts)
        pulled = self._encoder.pullback_columns(features) if features else self._encoder.zeros(len(picked))
        return self._with_rows(pulled, None if lam is None else lam.sum(dim=1))

    def slopes(self, columns: Tensor, level: Level, jacobian: Jacobian) -> Tensor:
        """`gradients` or `instance_gradients` times columns [k, P], without forming them: [items, k]."""
        at = self.linearise(jacobian)
        weights = getattr(self.weights, level)
        if not at.explicit:
            return columns.new_zeros(weights.numel(), len(columns))
        tangents = self._tangents(at, self._weighed_encoder(at, "exact"), columns)
        if level == "task":
            return at.slopes(tangents).T
        return (at.instance_slopes(tangents, level) * self.weights.task.unsqueeze(-1)).flatten(1).T

    def product_and_slopes(self, columns: Tensor, levels: Sequence[Level]) -> tuple[Tensor, dict[Level, Tensor]]:
        """The exact `product` and the `slopes` of several levels for the same columns, with one derivative for all."""
        at = self._for_products("total", "exact")
        if not at.explicit:
            return torch.zeros_like(columns), {level: self.slopes(columns, level, "total") for level in levels}
        weighed = self._weighed_encoder(at, "exact")
        tangents = self._tangents(at, weighed, columns)
        instances: list[Level] = [level for level in levels if level != "task"]
        parts, along = at.product_and_slopes(tangents, self.weights.task, instances)
        lam, features = _split(at, parts)
        slopes: dict[Level, Tensor] = {level: part.flatten(1).T for level, part in zip(instances, along, strict=True)}
        if "task" in levels:
            slopes["task"] = at.slopes(tangents).T
        return self._with_rows(weighed.product(columns, features), None if lam is None else lam.sum(dim=1)), slopes

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
        at = self._for_products(jacobian, form)
        weighed = self._weighed_encoder(at, form)
        tangents = self._tangents(at, weighed, columns)
        lam, features = _split(at, at.product(tangents, self.weights.task, form))
        if form == "gauss-newton":
            found = self._encoder.pullback_columns(features) if features else torch.zeros_like(columns)
        else:
            found = weighed.product(columns, features)
        return self._with_rows(found, None if lam is None else lam.sum(dim=1))

    def by_rows(self, columns: int, jacobian: Jacobian, form: Form) -> bool:
        """Whether `product_by_rows` takes fewer multiplications than `product`: for many columns, and convolutions."""
        if form != "gauss-newton" or columns < 2:
            return False
        if not self._separates(jacobian):
            return False
        at = self.linearise(jacobian)
        # Per parameter and instance: two derivatives, each of two products, for every column; or a backward pass and
        # a gradient for every output, on one forward pass, and then two products with each column.
        uses, outputs = self._encoder.parameter_uses, at.output_pullback[0].shape[-1]
        return 4 * columns * uses > (1 + 3 * outputs) * uses + 2 * columns * outputs

    def product_by_rows(self, columns: Tensor) -> Tensor:
        """The Gauss-Newton `product` with θ held, from the rows of the outputs' Jacobian, a few instances at a time."""
        at, loss = self.linearise("held"), self._learner.output_loss
        assert loss is not None
        outputs = at.output_pullback[0].detach().flatten(0, 1)
        scale = (self.weights.task.unsqueeze(1) * self.weights.query / self.weights.query.shape[1]).flatten()
        identity = torch.eye(outputs.shape[1]).to(outputs).reshape(-1, 1, 1, outputs.shape[1])
        pulled = at.pull_outputs(identity.expand(-1, *self.weights.query.shape, -1))[1]
        total, start = torch.zeros_like(columns), 0
        joined = pulled.flatten(1, 2)
        for rows in self._encoder.pullback_queries(len(pulled), lambda _, some: joined[:, some]):  # [outputs, m, P]
            some = slice(start, start + rows.shape[1])
            moved = (rows.flatten(0, 1) @ columns.T).unflatten(0, rows.shape[:2]).permute(2, 1, 0)
            curved = loss.curvature(outputs[some], moved) * scale[some].unsqueeze(1)
            total += curved.permute(0, 2, 1).flatten(1) @ rows.flatten(0, 1)
            start = some.stop
        return total

    def product_each(self, rows: Tensor, jacobian: Jacobian) -> Tensor:
        """w_i H_i v_i of every task with its own column, [n, P] to [n, P]; H_i exact."""
        at = self._for_products(jacobian, "exact")
        own = [rows[:, self._learner.own].unsqueeze(0)] if at.uses_rows else []
        parts = at.product([*own, *self._encoder.pushforward_each(rows)], self.weights.task, "exact")
        lam, features = _split(at, [p[0] for p in parts])
        held = [self._weigh(f) for f in _split(at, at.gradient)[1]]
        found = self._encoder.product_each(rows, held, features)
        return self._with_rows(found, lam)

    def _with_rows(self, found: Tensor, rows: Tensor | None) -> Tensor:
        """The part through the encoder, [..., P], plus the part through the rows, [..., R], if there is one."""
        if rows is None:
            return found
        own = self._learner.own
        return torch.cat([found[..., : own.start or 0], found[..., own] + rows], dim=-1)

    def _weighed_encoder(self, at: Linearisation, form: Form) -> WeighedEncoder:
        """The encoder's graph for products of this form; the last one is kept."""
        if form == "gauss-newton":  # it uses first derivatives of the encoder alone
            form = "exact"
        if self._weighed is None or self._weighed[0] != (at, form):
            self._weighed = None  # freed before the next is made
            held = [self._weigh(f) for f in _split(at, at.held_gradient(form))[1]]
            self._weighed = ((at, form), self._encoder.weighed(held))
        return self._weighed[1]

    def _tangents(self, at: Linearisation, weighed: WeighedEncoder, columns: Tensor) -> list[Tensor]:
        """The explicit parts' tangents along columns [k, P]: [k, n, ...] each."""
        own = columns[:, self._learner.own].unsqueeze(1).expand(-1, len(self.rows), -1)
        return [*([own] if at.uses_rows else []), *weighed.pushforward(columns)]

    def _weigh(self, part: Tensor) -> Tensor:
        return part * self.weights.task.reshape(-1, *([1] * (part.dim() - 1)))


def _split(at: Linearisation, parts: list[Tensor]) -> tuple[Tensor | None, list[Tensor]]:
    """The part of the rows λ, if the losses depend on them, and those of the features."""
    return (parts[0], parts[1:]) if at.uses_rows else (None, parts)

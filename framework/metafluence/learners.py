"""Meta-learners: what is adapted to a task, and how it is then judged.

A learner works on a stack of n tasks. Its losses take the meta-parameters as rows [n, P], one per task (the same row n
times in the real study), so that derivatives by the meta-parameters are known per task.

Where all tasks share a network of the meta-parameters (a backbone), `encode` runs it once over the images of all
tasks, and the losses see its features in place of inputs. Derivatives through the encoder are then taken once.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import ClassVar, Self

import torch
from torch import Tensor, nn
from torch.autograd import grad
from torch.func import vjp, vmap

from metafluence.backbones import Backbone, build_module
from metafluence.derivatives import batched_vjp
from metafluence.errors import InputError
from metafluence.layers import LayeredLoss, LayerStack, gradients_each, layered_loss
from metafluence.losses import OutputLoss, Through
from metafluence.modules import FlatModule
from metafluence.operators import LAYERED, SUM, SYMMETRIC, LinearOperator, random_groups
from metafluence.tasks import Batch, TaskSet


@dataclass(frozen=True)
class Adaptation:
    """adapted [n, Q]; gradient_norm [n]: ‖∂_θ inner loss‖ there; converged [n] bool; iterations used."""

    adapted: Tensor
    gradient_norm: Tensor
    converged: Tensor
    iterations: int


class MetaLearner(ABC):
    """A frozen dataclass whose fields are its configuration.

    shares_space: the meta-parameters and the adapted ones live in one space (P = Q), as in MAML.
    encodes: the learner has a shared encoder. output_loss: what outer_loss is the weighted mean of at the outputs of
    `predict`, for curvatures that need it (gauss-newton); None if it is not of that form.
    """

    shares_space: ClassVar[bool] = False
    encodes: ClassVar[bool] = False
    output_loss: ClassVar[OutputLoss | None] = None

    def bind(self, tasks: TaskSet) -> Self:
        """A copy that knows the shape, type and number of classes of its tasks. Called once by the problem."""
        return self

    @property
    @abstractmethod
    def meta_size(self) -> int:
        """P."""

    @property
    @abstractmethod
    def adapted_size(self) -> int:
        """Q."""

    @abstractmethod
    def init_meta(self, generator: torch.Generator | None) -> Tensor:
        """Initial meta-parameters [P]; without a generator, the user's own module as it is."""

    def encode(self, meta: Tensor, inputs: Tensor) -> Tensor:
        """Features [m, ...] of instances [m, *shape] under the shared encoder at meta [P]."""
        return inputs

    def pull_each(self, meta: Tensor, inputs: Tensor, cotangents: Tensor) -> Tensor:
        """Jᵀ g of every group of instances alone, J of `encode`: inputs [n, m, *shape], g [n, m, ...] to [n, P]."""

        def one(instances: Tensor, g: Tensor) -> Tensor:
            return vjp(lambda lam: self.encode(lam, instances), meta)[1](g)[0]

        return vmap(one)(inputs, cotangents)

    @abstractmethod
    def adapt(self, rows: Tensor, support: Batch, weights: Tensor, init: Tensor | None) -> Adaptation:
        """Adapt to n tasks. rows [n, P], support features [n, n_s, ...], weights [n, n_s], warm start [n, Q]."""

    @abstractmethod
    def outer_loss(self, rows: Tensor, adapted: Tensor, query: Batch, weights: Tensor) -> Tensor:
        """[n]: per task, the weighted sum of its query losses divided by their number."""

    @abstractmethod
    def predict(self, rows: Tensor, adapted: Tensor, inputs: Tensor) -> Tensor:
        """Outputs [n, m, ...] for features [n, m, ...]."""

    def outer_layers(self, meta: Tensor, adapted: Tensor, query: Batch, weights: Tensor, shift: float) -> LayerStack:
        """The layers behind Σ weights_ij ℓ_ij(λ) + shift/2 ‖λ‖² with θ held, over all query instances as one task.

        meta [P], adapted [N, Q], query [N, n_q, ...], weights [N, n_q]. Raises InputError where they are not known.
        """
        raise InputError(f"{type(self).__name__} does not know its layers; use a solver that needs products only (cg).")


class ImplicitLearner(MetaLearner):
    """The adapted parameters are the argmin of `inner_loss`; derivatives follow from the implicit function theorem.

    layered: the learner gives `inner_layers`, so that solvers that work on layers (ek-fac) can be used.
    """

    layered: ClassVar[bool] = False

    @abstractmethod
    def inner_loss(self, rows: Tensor, adapted: Tensor, support: Batch, weights: Tensor) -> Tensor:
        """[n]: per task, the weighted sum of support losses divided by their number, plus the regulariser."""

    def unadapted(self) -> ImplicitLearner:
        """The model as one that knows nothing of adaptation sees it: itself, where its loss depends on λ with θ held.

        Raises InputError where it does not, and there is no such model.
        """
        if self.encodes:
            return self
        raise InputError(f"{type(self).__name__} has no model without adaptation; use a method that knows of it.")

    def inner_hessian(self, rows: Tensor, adapted: Tensor, support: Batch, weights: Tensor) -> LinearOperator:
        """∂²_θθ inner_loss at `adapted`: an operator with batch shape (n,) and size Q."""
        return InnerHessian(self, rows, adapted, support, weights)

    def inner_layers(self, rows: Tensor, adapted: Tensor, support: Batch, weights: Tensor) -> LayeredLoss:
        """The layers behind inner_loss at `adapted`, for learners that are `layered`."""
        raise NotImplementedError

    def layer_stack(self, rows: Tensor, adapted: Tensor, support: Batch, weights: Tensor) -> LayerStack:
        """`inner_layers` of any slice of the tasks."""
        return LayerStack(
            len(rows), lambda some: self.inner_layers(rows[some], adapted[some], support[some], weights[some])
        )


class InnerHessian(LinearOperator):
    """The inner Hessians of a stack of tasks, by reverse over reverse on one kept graph."""

    def __init__(
        self, learner: ImplicitLearner, rows: Tensor, adapted: Tensor, support: Batch, weights: Tensor
    ) -> None:
        self._parts = (learner, rows, adapted, support, weights)
        self.size, self.dtype, self.device = learner.adapted_size, adapted.dtype, adapted.device
        self.batch_shape = (adapted.shape[0],)
        self.tags = frozenset({SYMMETRIC, SUM, LAYERED} if learner.layered else {SYMMETRIC, SUM})
        with torch.enable_grad():
            self._theta = adapted.detach().requires_grad_()
            loss = learner.inner_loss(rows.detach(), self._theta, support, weights).sum()
            (self._gradient,) = grad(loss, self._theta, create_graph=True)

    @property
    def structure(self) -> LayerStack | None:
        learner, *_ = self._parts
        return learner.layer_stack(*self._parts[1:]) if learner.layered else None

    def matmat(self, columns: Tensor) -> Tensor:
        (product,) = batched_vjp([self._gradient], [self._theta], [columns.movedim(-1, 0)])
        return product.movedim(0, -1)

    def split(self, count: int, generator: torch.Generator) -> list[LinearOperator]:
        """By support instances, the same ones in every task."""
        learner, rows, adapted, support, weights = self._parts
        total = weights.shape[1]
        groups = random_groups(total, count, generator)
        made: list[LinearOperator] = []
        for group in groups:
            # The part divides by its own number of instances; undo that, and scale it up to the whole.
            scale = len(groups) * len(group) / total
            some = Batch(support.inputs[:, group], support.targets[:, group])
            made.append(InnerHessian(learner, rows, adapted, some, scale * weights[:, group]))
        return made


class NetworkLearner(ImplicitLearner):
    """A learner whose meta-parameters are those of one network, a dataclass with the fields `backbone` and `ways`.

    classifies: the network ends in one logit per class; else in features.
    """

    backbone: Backbone | nn.Module
    ways: int | None
    classifies: ClassVar[bool] = True

    def bind(self, tasks: TaskSet) -> Self:
        ways = self.ways if self.ways is not None else tasks.ways
        name = type(self).__name__
        if tasks.ways > ways:
            raise InputError(f"The tasks have {tasks.ways} classes, but {name} is set to ways={ways}.")
        module = build_module(self.backbone, tasks.input_shape, ways if self.classifies else None)
        bound = replace(self, backbone=module, ways=ways)  # type: ignore[type-var]
        object.__setattr__(bound, "_network", FlatModule(module, tasks.dtype, tasks.device))
        return bound

    @property
    def network(self) -> FlatModule:
        """The network as a function of flat parameters. Raises InputError before the learner is bound."""
        try:
            return self.__dict__["_network"]
        except KeyError:
            raise InputError(
                "This learner does not know its tasks yet. Give it to a BilevelProblem, or call bind(tasks)."
            ) from None

    @property
    def meta_size(self) -> int:
        return self.network.size

    def init_meta(self, generator: torch.Generator | None) -> Tensor:
        return self.network.initial(generator)

    def encode(self, meta: Tensor, inputs: Tensor) -> Tensor:
        return self.network(meta, inputs) if self.encodes else inputs

    def pull_each(self, meta: Tensor, inputs: Tensor, cotangents: Tensor) -> Tensor:
        if self.network.mixes_instances:
            return super().pull_each(meta, inputs, cotangents)
        return gradients_each(self.network, meta, inputs, cotangents)

    def outer_layers(self, meta: Tensor, adapted: Tensor, query: Batch, weights: Tensor, shift: float) -> LayerStack:
        if not self.encodes or self.output_loss is None:
            return super().outer_layers(meta, adapted, query, weights, shift)
        lead, rows = weights.shape, meta.expand(len(adapted), -1)

        def outputs(features: Tensor) -> Tensor:
            return self.predict(rows, adapted, features.unflatten(1, lead)[0]).flatten(0, 1).unsqueeze(0)

        loss = Through(self.output_loss, outputs)
        inputs, targets, weigh = (p.flatten(0, 1).unsqueeze(0) for p in (query.inputs, query.targets, weights))
        flat = meta.unsqueeze(0)
        return LayerStack(1, lambda _: layered_loss(self.network, flat, inputs, targets, weigh, loss, shift))

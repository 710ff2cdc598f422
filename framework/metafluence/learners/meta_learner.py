"""Meta-learners: what is adapted to a task, and how it is then judged.

A learner works on a stack of n tasks. Its losses take meta-parameters as rows [n, R], one per task (the same row n
times in the real study), so that derivatives by the meta-parameters are known per task. Rows are `meta[own]`: all of λ,
or where there is a shared encoder what of λ is not the encoder's.

Where all tasks share a network of the meta-parameters (a backbone), `encode` runs it once over the images of all
tasks, and the losses see its features in place of inputs. Derivatives through the encoder are then taken once.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor
from torch.func import vjp, vmap

from metafluence.errors import InputError
from metafluence.networks import LayerStack, OutputLoss
from metafluence.registry import Component
from metafluence.tasks import Batch, TaskSet


@dataclass(frozen=True)
class Adaptation:
    """adapted [n, Q]; gradient_norm [n]: ‖∂_θ inner loss‖ there; converged [n] bool; iterations used."""

    adapted: Tensor
    gradient_norm: Tensor
    converged: Tensor
    iterations: int

    @classmethod
    def by_steps(cls, adapted: Tensor, steps: int) -> Adaptation:
        """Of a learner whose adaptation is its steps: wherever they end, it is done, and no optimum is claimed."""
        none = adapted.new_zeros(len(adapted))
        return cls(adapted, none, none == 0, steps)


class MetaLearner(Component, ABC):
    """A frozen dataclass whose fields are its configuration.

    encodes: the learner has a shared encoder.
    """

    encodes: ClassVar[bool] = False

    @property
    def shares_space(self) -> bool:
        """The meta-parameters and the adapted ones live in one space (P = Q), as in MAML."""
        return False

    @property
    def unrolls(self) -> bool:
        """θ(λ) is differentiated through `unroll`; else by the implicit function theorem."""
        return False

    @property
    def exact(self) -> bool:
        """The total gradient is the derivative of an objective (first-order MAML's is not)."""
        return True

    @property
    def output_loss(self) -> OutputLoss | None:
        """What outer_loss is the weighted mean of at the outputs of `predict`, for curvatures that need it
        (gauss-newton); None if it is not of that form.
        """
        return None

    @property
    def own(self) -> slice:
        """Which of λ the losses see as rows; the rest reaches them through the encoder."""
        return slice(None)

    @property
    def mixes_instances(self) -> bool:
        """An instance's features depend on the others that are encoded with it (batch statistics).

        Each task's support, and its query, are then encoded on their own.
        """
        return False

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
        """Adapt to n tasks. rows [n, R], support features [n, n_s, ...], weights [n, n_s], warm start [n, Q].

        Raises RemovalError where it cannot do without the instances of weight zero: retraining without those has then
        failed, and other retrainings go on.
        """

    def unroll(self, rows: Tensor, support: Batch, weights: Tensor, track: bool) -> Tensor:
        """θ [n, Q] as a differentiable function of all three, for learners that `unrolls`; the same θ as `adapt`'s.

        track: derivatives are wanted; else the graph is dropped on the way.
        """
        raise NotImplementedError

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

    def unadapted(self) -> MetaLearner:
        """The model as one that knows nothing of adaptation sees it: itself, where its loss depends on λ with θ held.

        Raises InputError where it does not, and there is no such model.
        """
        if self.encodes:
            return self
        raise InputError(f"{type(self).__name__} has no model without adaptation; use a method that knows of it.")

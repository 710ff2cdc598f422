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
from typing import Self

import torch
from torch import Tensor
from torch.func import vjp, vmap

from metafluence.errors import InputError
from metafluence.networks import Cotangents, LayerStack, OutputLoss
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
    """How a task adapts, and how the adapted model is judged. A frozen dataclass: its fields are its configuration.

    What it can do is said by its properties: `encodes`, `shares_space`, `unrolls`, `exact`, `mixes_instances`,
    `output_loss`.
    n tasks are worked on together: R meta-parameters reach each task's losses as a row, Q parameters adapt.

    Example:
        A learner that adapts one bias to the support's mean target, from real targets alone:

        >>> import torch, metafluence as mf
        >>> class MeanLearner(mf.MetaLearner):
        ...     unrolls = True
        ...     meta_size = 1  # λ shrinks the mean
        ...     adapted_size = 1
        ...
        ...     def init_meta(self, generator):
        ...         return torch.ones(1)
        ...
        ...     def unroll(self, rows, support, weights, track):
        ...         return rows * mf.weighted_mean(support.targets.squeeze(-1), weights).unsqueeze(1)
        ...
        ...     def adapt(self, rows, support, weights, init):
        ...         return mf.Adaptation.by_steps(self.unroll(rows, support, weights, False), 1)
        ...
        ...     def predict(self, rows, adapted, inputs):
        ...         return adapted.unsqueeze(1).expand(*inputs.shape[:2], 1)
        ...
        ...     def outer_loss(self, rows, adapted, query, weights):
        ...         outputs = self.predict(rows, adapted, query.inputs)
        ...         return mf.weighted_mean(mf.squared_error(outputs, query.targets), weights)
        >>> half = mf.Batch(torch.zeros(1, 2, 1), torch.tensor([[[1.0], [3.0]]]))
        >>> tasks = mf.TaskSet(half, half, ("only",))
        >>> problem = mf.BilevelProblem(MeanLearner(), tasks, l2=0.0, inner_solver=mf.build("solver", "exact"))
        >>> point = problem.at(torch.tensor([0.5]))
        >>> point.adapted, point.gradient, point.hessian().dense()  # θ = 2 λ, L_O = ((2 λ − 1)² + (2 λ − 3)²) / 4
        (tensor([[1.]]), tensor([-2.]), tensor([[4.]]))
    """

    @property
    def encodes(self) -> bool:
        """All tasks share an encoder on the meta-parameters: `encode` runs it, and the losses see its features."""
        return False

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
        """The part of λ that the losses see as rows; the rest reaches them through the encoder."""
        return slice(None)

    @property
    def mixes_instances(self) -> bool:
        """An instance's features depend on the others that are encoded with it (batch statistics).

        Each task's support, and its query, are then encoded on their own, unless `encodes_together`.
        """
        return False

    @property
    def encodes_together(self) -> bool:
        """Where instances mix, a task's support and its query are encoded in one call."""
        return False

    def bind(self, tasks: TaskSet) -> Self:
        """A copy that knows the shape, type and number of classes of its tasks. A problem calls it once.

        Raises InputError for tasks that the learner cannot work on.
        """
        return self

    def for_tasks(self, tasks: TaskSet) -> Self:
        """This bound learner for other tasks, its meta-parameters the same: itself, unless it works for any number of
        classes. For it must not matter which of its own tasks these are.
        """
        return self

    def check_tasks(self, tasks: TaskSet) -> None:
        """Asked of a bound learner. Raises InputError for tasks that it cannot work on: by default where tasks adapt
        and a class is in queries alone.
        """
        if self.adapted_size:
            tasks.check_support()

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

    def pull_each(self, meta: Tensor, inputs: Tensor, cotangents: Cotangents) -> Tensor:
        """Jᵀ g of every group of instances alone, J of `encode`, for k cotangents g of each.

        inputs [n, m, *shape]; `cotangents` gives g [k, some, m, ...] of some of the groups from their features. Returns
        [k, n, P].
        """
        with torch.no_grad():
            g = cotangents(vmap(self.encode, in_dims=(None, 0))(meta, inputs), slice(0, len(inputs)))

        def one(instances: Tensor, own: Tensor) -> Tensor:
            return vmap(vjp(lambda lam: self.encode(lam, instances), meta)[1])(own)[0]

        return vmap(one, in_dims=(0, 1), out_dims=1)(inputs, g)

    def parameter_uses(self, shape: torch.Size) -> float:
        """How often `encode` multiplies by each of its parameters, for an instance of `shape`: many times in a
        convolution. One if it is not known.
        """
        return 1.0

    @abstractmethod
    def adapt(self, rows: Tensor, support: Batch, weights: Tensor, init: Tensor | None) -> Adaptation:
        """Adapt to n tasks. rows [n, R], support features [n, n_s, ...], weights [n, n_s], warm start [n, Q].

        Raises RemovalError if it cannot do without the instances of weight zero; that one retraining then fails and the
        others go on.
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
        """The model without adaptation, for methods that ignore it: itself, if its loss depends on λ with θ held.

        Raises InputError where there is no such model.
        """
        if self.encodes:
            return self
        raise InputError(
            f"{type(self).__name__} has no model without adaptation; use a method that differentiates it (influence)."
        )

"""The derivatives of a few tasks' outer losses at one point, kept as graphs that every product reuses.

Two stages meet at the features Z of the shared encoder. `Encoder` maps meta-parameters to Z, once for the images of
all tasks; a `Linearisation` holds the losses as functions of (rows λ, Z, adapted parameters θ). Its subclasses differ
in dθ/d(λ, Z):

- `HeldLinearisation`: zero;
- `IdentityLinearisation`: the identity, where λ and θ live in one space (first-order convention);
- `ImplicitLinearisation`, `UnrolledLinearisation` (files of their own): the true one.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from metafluence.errors import InputError
from metafluence.learners import MetaLearner
from metafluence.networks import batched_vjp, depends_on, gradients
from metafluence.tasks import Batch, Level, Weights

Jacobian = Literal["total", "held", "identity"]
"""What dθ/dλ is taken to be: the true one; zero (θ held); or the identity (first-order, λ and θ in one space)."""

Form = Literal["exact", "no-third-order", "gauss-newton"]
"""What stands between Jᵀ and J in a task's Hessian: ∇²ℒ; ∇²outer; or ∇²outer with the outputs linearised."""


class Linearisation(ABC):
    """The losses of n tasks as functions of rows λ [n, R], features Z and adapted parameters θ [n, Q].

    Methods take and return lists of parts in the order of `explicit`: the rows, if the losses depend on them, then the
    two feature stacks, if there is an encoder. Parts of k columns are [k, n, ...].

    Subclasses give `pushforward` and `pullback`, the products with J = [I; T], T = dθ/d(λ, Z), and Jᵀ.
    """

    inner_residual = 0.0
    """The largest relative residual of the solves with inner Hessians made so far."""

    _theta: Tensor

    def __init__(
        self,
        learner: MetaLearner,
        rows: Tensor,
        support: Batch,
        query: Batch,
        weights: Weights,
        adapted: Tensor | None = None,
    ) -> None:
        self._learner, self._query = learner, query
        with torch.enable_grad():
            self._rows = rows.detach().requires_grad_()
            if adapted is not None:
                self._theta = adapted.detach().requires_grad_()
            self._features = [f.detach().requires_grad_(learner.encodes) for f in (support.inputs, query.inputs)]
            self._weighed = {
                "support": weights.support.detach().requires_grad_(),
                "query": weights.query.detach().requires_grad_(),
            }
        self._support = Batch(self._features[0], support.targets)

    @abstractmethod
    def pushforward(self, tangents: list[Tensor]) -> Tensor:
        """T times tangents of the explicit parts: dθ, [k, n, Q]."""

    @abstractmethod
    def pullback(self, parts: list[Tensor]) -> list[Tensor]:
        """Jᵀ times cotangents of the explicit parts and of θ (the last one): cotangents of the explicit parts."""

    def drop_graphs(self) -> None:
        """Drop the graphs of derivatives, which products keep; what needs them builds them again."""
        for name in ("_first", "_plain", "_pulled", "output_pullback"):
            vars(self).pop(name, None)

    @property
    def adapted(self) -> Tensor:
        """θ [n, Q]."""
        return self._theta.detach()

    @property
    def losses(self) -> Tensor:
        """Outer losses [n]."""
        return self._by_task.detach()

    @cached_property
    def _by_task(self) -> Tensor:
        """L_O^i with θ a variable of its own, [n]."""
        return self._losses(self._theta)

    @cached_property
    def _outer(self) -> Tensor:
        with torch.enable_grad():
            return self._by_task.sum()

    def _losses(self, adapted: Tensor) -> Tensor:
        with torch.enable_grad():
            query = Batch(self._features[1], self._query.targets)
            return self._learner.outer_loss(self._rows, adapted, query, self._weighed["query"])

    @cached_property
    def _lagrangian(self) -> Tensor:
        """The scalar ℒ whose explicit gradient, pulled back, is the total one."""
        return self._outer

    def _depends(self) -> list[Tensor]:
        """All scalars whose derivatives by the rows matter."""
        return [self._outer]

    @cached_property
    def uses_rows(self) -> bool:
        """Whether anything depends on the rows when features and θ are held."""
        return any(depends_on(d, self._rows) for d in self._depends())

    @cached_property
    def explicit(self) -> list[Tensor]:
        """The explicit parts: the rows, if they are used, and the features, if there is an encoder."""
        return ([self._rows] if self.uses_rows else []) + (self._features if self._learner.encodes else [])

    @property
    def _variables(self) -> list[Tensor]:
        """What `_first` is the gradient by."""
        return [*self.explicit, self._theta]

    @cached_property
    def _first(self) -> list[Tensor]:
        """∇ℒ by the variables, itself differentiable."""
        with torch.enable_grad():
            return gradients(self._lagrangian, self._variables, create_graph=True)

    @cached_property
    def _plain(self) -> list[Tensor]:
        """∇outer by the explicit parts and θ, itself differentiable."""
        if self._lagrangian is self._outer:
            return self._first
        with torch.enable_grad():
            return gradients(self._outer, [*self.explicit, self._theta], create_graph=True)

    @cached_property
    def outer_gradient(self) -> Tensor:
        """∂_θ outer, [n, Q]."""
        return gradients(self._outer, [self._theta])[0]

    @cached_property
    def gradient(self) -> list[Tensor]:
        """Total gradient of each task's loss by each explicit part: [n, ...]."""
        return self._explicit_gradient()

    def _explicit_gradient(self) -> list[Tensor]:
        # No graph of the gradient itself, which costs as much again.
        return gradients(self._lagrangian, self.explicit)

    def held_gradient(self, form: Form) -> list[Tensor]:
        """The gradient that weighs the encoder's own second derivatives in a product: of ℒ, or of outer; [n, ...]."""
        return self.gradient if form == "exact" else [part.detach() for part in self._plain[: len(self.explicit)]]

    def instance_gradients(self, level: Level, sums: Tensor | None = None) -> list[Tensor]:
        """D_(λ,Z) ∂ℒ/∂ω for the weight ω of every support or query instance: [instances, n, ...].

        Args:
            level: `support` or `query`.
            sums: [k, n, instances], coefficients of each task's instances; the k sums are then returned, [k, n, ...].
        """
        with torch.enable_grad():
            (by_weight,) = gradients(self._lagrangian, [self._weighed[level]], create_graph=True)
        along = self._each(level) if sums is None else sums
        return self._close(batched_vjp([by_weight], self._variables, [along]))

    def slopes(self, tangents: list[Tensor]) -> Tensor:
        """The total derivative of every task's loss along tangents of the explicit parts, [k, n]."""
        found = [(g * t).flatten(2).sum(dim=2) for g, t in zip(self.gradient, tangents, strict=True)]
        return torch.stack(found).sum(dim=0)

    def instance_slopes(self, tangents: list[Tensor], level: Level) -> Tensor:
        """`instance_gradients` along tangents of the explicit parts, all instances at once: [k, n, instances].

        The same mixed derivative in the other order: by ω, of the total derivative along the tangents.
        """
        return batched_vjp(self._first, [self._weighed[level]], self._along(tangents))[0]

    def product(self, tangents: list[Tensor], weights: Tensor, form: Form) -> list[Tensor]:
        """The weighted total Hessians Σ_i w_i H_i times tangents of the explicit parts.

        Args:
            tangents: [k, n, ...] each.
            weights: w [n].
            form: what stands between Jᵀ and J.

        Returns:
            For each explicit part [k, n, ...]; the sum over tasks is not taken yet.
        """
        if not self.explicit:
            return []
        if form == "exact":
            return self.product_and_slopes(tangents, weights, ())[0]
        along = [*tangents, self.pushforward(tangents)]
        variables = [*self.explicit, self._theta]
        if form == "no-third-order":
            return self.pullback(batched_vjp(self._plain, variables, _weigh(along, weights)))
        return self._gauss_newton(along, weights)

    def product_and_slopes(
        self, tangents: list[Tensor], weights: Tensor, levels: Sequence[Level]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """The exact `product`, and for each level w_i `instance_slopes` [k, n, instances], in one derivative.

        Both are derivatives of Σ_i w_i (D L_O^i along the tangents): by the explicit parts, and by instances' weights.
        """
        inputs = [*self._variables, *(self._weighed[level] for level in levels)]
        found = self._close(batched_vjp(self._first, inputs, _weigh(self._along(tangents), weights)), levels)
        return found[: len(self.explicit)], found[len(self.explicit) :]

    def _gauss_newton(self, along: list[Tensor], weights: Tensor) -> list[Tensor]:
        """Jᵀ (∂f)ᵀ ∂²loss (∂f) J times tangents, f the outputs for the query."""
        loss = self._learner.output_loss
        if loss is None:
            raise InputError(
                f"gauss-newton needs an outer loss of the outputs, and {type(self._learner).__name__} declares no "
                "output_loss. Use the curvature exact."
            )
        outputs, dual, pulled = self.output_pullback
        (moved,) = batched_vjp(pulled, [dual], along)
        weigh_query = self._weighed["query"].detach()
        scale = (weights.unsqueeze(-1) * weigh_query / weigh_query.shape[-1]).unsqueeze(-1)
        return self.pull_outputs(scale * loss.curvature(outputs, moved))

    def pull_outputs(self, cotangents: Tensor) -> list[Tensor]:
        """Jᵀ (∂f)ᵀ times cotangents [k, n, n_q, C] of the outputs f for the query, by explicit part: [k, n, ...]."""
        outputs = self.output_pullback[0]
        return self.pullback(batched_vjp([outputs], [*self.explicit, self._theta], [cotangents]))

    @cached_property
    def output_pullback(self) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Outputs f for the query, a dual c of them, and cᵀ ∂f by the explicit parts and θ, which is linear in c."""
        with torch.enable_grad():
            outputs = self._learner.predict(self._rows, self._theta, self._features[1])
            dual = torch.zeros_like(outputs, requires_grad=True)
            variables = [*self.explicit, self._theta]
            return outputs, dual, gradients((outputs * dual).sum(), variables, create_graph=True)

    def _along(self, tangents: list[Tensor]) -> list[Tensor]:
        """Tangents of the variables along tangents of the explicit parts."""
        return [*tangents, self.pushforward(tangents)]

    def _close(self, parts: list[Tensor], levels: Sequence[Level] = ()) -> list[Tensor]:
        """Cotangents of the variables as cotangents of the explicit parts; those of the weights of `levels` follow."""
        count = len(self._variables)
        return [*self.pullback(parts[:count]), *parts[count:]]

    def _each(self, level: Level) -> Tensor:
        """Every instance of all tasks' weights on its own: [instances, n, instances]."""
        weight = self._weighed[level]
        tasks, count = weight.shape
        return torch.eye(count).to(weight).unsqueeze(1).expand(-1, tasks, -1)


class HeldLinearisation(Linearisation):
    """θ stays where it is: T = 0."""

    def pushforward(self, tangents: list[Tensor]) -> Tensor:
        return torch.zeros(tangents[0].shape[0], *self._theta.shape).to(self._theta)

    def pullback(self, parts: list[Tensor]) -> list[Tensor]:
        return parts[:-1]


class IdentityLinearisation(Linearisation):
    """θ moves with the rows: T = I, the first-order convention for λ and θ of one space."""

    @cached_property
    def uses_rows(self) -> bool:
        return True

    def _explicit_gradient(self) -> list[Tensor]:
        return self.pullback(gradients(self._lagrangian, self._variables))

    def pushforward(self, tangents: list[Tensor]) -> Tensor:
        return tangents[0]

    def pullback(self, parts: list[Tensor]) -> list[Tensor]:
        rows, *features, theta = parts
        return [rows + theta, *features]


def _weigh(tangents: list[Tensor], weights: Tensor) -> list[Tensor]:
    return [t * weights.reshape(1, -1, *([1] * (t.dim() - 2))) for t in tangents]

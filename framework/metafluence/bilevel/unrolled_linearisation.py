"""The total gradient and the total Hessian where θ comes from steps or a closed form, by autograd through them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import torch
from torch import Tensor

from metafluence.bilevel.linearisation import Linearisation
from metafluence.learners import MetaLearner
from metafluence.networks import batched_vjp, gradients
from metafluence.tasks import Batch, Level, Weights


class UnrolledLinearisation(Linearisation):
    """θ is `learner.unroll` of rows, features and weights; building this adapts the tasks.

    The exact Hessian differentiates through the unrolled θ, so it needs neither `pushforward` nor `pullback`.
    """

    def __init__(self, learner: MetaLearner, rows: Tensor, support: Batch, query: Batch, weights: Weights) -> None:
        super().__init__(learner, rows, support, query, weights)
        with torch.enable_grad():
            self._unrolled = learner.unroll(self._rows, self._support, self._weighed["support"], track=True)
            self._theta = self._unrolled.detach().requires_grad_()

    @property
    def losses(self) -> Tensor:
        return self._through.detach()

    @cached_property
    def _through(self) -> Tensor:
        """L_O^i through the adaptation, [n]."""
        return self._losses(self._unrolled)

    @cached_property
    def _lagrangian(self) -> Tensor:
        with torch.enable_grad():
            return self._through.sum()

    def _depends(self) -> list[Tensor]:
        return [self._lagrangian]

    @property
    def _variables(self) -> list[Tensor]:
        return self.explicit

    def _along(self, tangents: list[Tensor]) -> list[Tensor]:
        return tangents

    def _close(self, parts: list[Tensor], levels: Sequence[Level] = ()) -> list[Tensor]:
        return parts

    @cached_property
    def _pulled(self) -> tuple[Tensor, list[Tensor]]:
        """A dual c of θ, and cᵀ dθ/d(λ, Z), linear in it."""
        with torch.enable_grad():
            dual = torch.zeros_like(self._unrolled, requires_grad=True)
            return dual, gradients((self._unrolled * dual).sum(), self.explicit, create_graph=True)

    def pushforward(self, tangents: list[Tensor]) -> Tensor:
        dual, pulled = self._pulled
        return batched_vjp(pulled, [dual], tangents)[0]

    def pullback(self, parts: list[Tensor]) -> list[Tensor]:
        *parts, theta_part = parts
        back = batched_vjp([self._unrolled], self.explicit, [theta_part])
        return [p + b for p, b in zip(parts, back, strict=True)]

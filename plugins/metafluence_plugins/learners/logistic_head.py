"""A shared backbone under a regularised softmax head, fitted to each task (as in Lee et al. 2019, MetaOptNet)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from metafluence import (
    LAYERED,
    PSD,
    SYMMETRIC,
    Adaptation,
    Backbone,
    Batch,
    DenseOperator,
    ImplicitLearner,
    LayeredLoss,
    LinearHead,
    Positive,
    Ways,
    cross_entropy,
    minimise_newton,
    weighted_mean,
    with_one,
)


@dataclass(frozen=True, eq=False)
class LogisticHead(LinearHead, ImplicitLearner):
    """Meta-parameters: the backbone. Adapted: a softmax head [C, d + 1] (bias last), flattened.

    inner_loss = mean cross-entropy over the support + penalty/2 ‖head‖², strongly convex, with its Hessian in closed
    form. backbone: a recipe, or a module of one's own that maps instances to features [n, d]. tolerance: on the
    inner gradient's norm; None for the best that the precision allows.
    """

    backbone: Backbone | nn.Module
    penalty: Positive = 0.1
    ways: Ways | None = None
    tolerance: Positive | None = None

    regresses: ClassVar[bool] = False

    @property
    def layered(self) -> bool:
        return True

    def inner_loss(self, rows: Tensor, adapted: Tensor, support: Batch, weights: Tensor) -> Tensor:
        losses = cross_entropy(self.predict(rows, adapted, support.inputs), support.targets)
        return weighted_mean(losses, weights) + self.penalty / 2 * adapted.square().sum(dim=-1)

    def inner_hessian(self, rows: Tensor, adapted: Tensor, support: Batch, weights: Tensor) -> DenseOperator:
        """Σ_j s_j/n (diag p_j − p_j p_jᵀ) ⊗ z_j z_jᵀ + penalty I, z_j the features with a one appended."""
        features = support.inputs.detach()
        p = self.predict(rows, adapted.detach(), features).softmax(dim=-1)
        hessian = self._hessian(p, with_one(features), weights)
        layers = self.layer_stack(rows, adapted, support, weights)
        return DenseOperator(hessian, frozenset({SYMMETRIC, PSD, LAYERED}), layers)

    def inner_layers(self, rows: Tensor, adapted: Tensor, support: Batch, weights: Tensor) -> LayeredLoss:
        return self.head_layer(adapted, support, weights, self.penalty)

    def adapt(self, rows: Tensor, support: Batch, weights: Tensor, init: Tensor | None) -> Adaptation:
        z = with_one(support.inputs)
        wanted = torch.nn.functional.one_hot(support.targets, self.ways or 0).to(z)
        scaled = weights / weights.shape[-1]
        start = z.new_zeros(len(z), self.adapted_size) if init is None else init

        def evaluate(adapted: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            p = self.predict(rows, adapted, support.inputs).softmax(dim=-1)
            error = scaled.unsqueeze(-1) * (p - wanted)
            gradient = (error.mT @ z).flatten(1) + self.penalty * adapted
            loss = self.inner_loss(rows, adapted, support, weights)
            return loss, gradient, self._hessian(p, z, weights)

        tolerance = self.tolerance or torch.finfo(z.dtype).eps ** 0.75
        found = minimise_newton(
            evaluate, lambda adapted: self.inner_loss(rows, adapted, support, weights), start, tolerance
        )
        return Adaptation(found.point, found.gradient_norm, found.converged, found.iterations)

    def _hessian(self, p: Tensor, z: Tensor, weights: Tensor) -> Tensor:
        n, ways, width = len(p), p.shape[-1], z.shape[-1]
        scaled = weights / weights.shape[-1]
        spread = torch.diag_embed(p) - p.unsqueeze(-1) * p.unsqueeze(-2)
        outer = z.unsqueeze(-1) * z.unsqueeze(-2) * scaled[..., None, None]
        blocks = spread.flatten(2).mT @ outer.flatten(2)  # [n, C C, (d+1)(d+1)]
        hessian = blocks.reshape(n, ways, ways, width, width).transpose(2, 3).reshape(n, ways * width, -1)
        hessian.diagonal(dim1=-2, dim2=-1).add_(self.penalty)
        return hessian

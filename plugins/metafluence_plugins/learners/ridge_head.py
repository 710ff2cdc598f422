"""A shared backbone under ridge regression, in closed form: R2D2 (Bertinetto et al. 2019)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from metafluence import (
    PSD,
    SYMMETRIC,
    Adaptation,
    Backbone,
    Batch,
    DenseOperator,
    ImplicitLearner,
    LinearHead,
    Positive,
    Ways,
    weighted_mean,
    with_one,
)


@dataclass(frozen=True, eq=False)
class RidgeHead(LinearHead, ImplicitLearner):
    """Meta-parameters: the backbone, then with `learn` ln(ridge / its start) and, for classes, ln(scale / its start).

    inner_loss = mean ½ ‖head [z; 1] − y‖² over the support + ridge/2 ‖head‖², y one-hot for classes: least squares,
    solved exactly. Classes are then told apart by cross-entropy of scale times the head's outputs; real targets by ½
    squared error of the outputs. learn: whether ridge and scale are learned. differentiation: `unrolled` goes through
    the closed form by autograd, `implicit` through the inner Hessian by any inner solver; they agree to rounding.
    """

    backbone: Backbone | nn.Module
    ridge: Positive = 0.1
    scale: Positive = 10.0
    learn: bool = True
    differentiation: Literal["unrolled", "implicit"] = "unrolled"
    ways: Ways | None = None

    @property
    def unrolls(self) -> bool:
        return self.differentiation == "unrolled"

    @property
    def extra_size(self) -> int:
        if not self.learn:
            return 0
        return 1 if self._real else 2  # the squared error of real targets has no scale

    def extra_positions(self) -> dict[str, Tensor]:
        return {name: torch.tensor(i) for i, name in enumerate(("log_ridge", "log_scale")[: self.extra_size])}

    def predict(self, rows: Tensor, adapted: Tensor, inputs: Tensor) -> Tensor:
        outputs = self.outputs(adapted, inputs)
        return outputs if self._real else self._learned(rows, 1, self.scale)[:, None, None] * outputs

    def inner_loss(self, rows: Tensor, adapted: Tensor, support: Batch, weights: Tensor) -> Tensor:
        error = self.outputs(adapted, support.inputs) - self._wanted(support)
        penalty = self._learned(rows, 0, self.ridge) / 2 * adapted.square().sum(dim=-1)
        return weighted_mean(error.square().sum(dim=-1) / 2, weights) + penalty

    def inner_hessian(self, rows: Tensor, adapted: Tensor, support: Batch, weights: Tensor) -> DenseOperator:
        """I_C ⊗ (Σ_j s_j/n z_j z_jᵀ + ridge I), z_j the features with a one appended."""
        block = self._moment(with_one(support.inputs.detach()), rows.detach(), weights.detach())
        eye = torch.eye(self.ways or 0).to(block)
        matrix = torch.einsum("cd,nij->ncidj", eye, block).reshape(len(block), self.adapted_size, -1)
        return DenseOperator(matrix, frozenset({SYMMETRIC, PSD}))

    def unroll(self, rows: Tensor, support: Batch, weights: Tensor, track: bool) -> Tensor:
        z, scaled = with_one(support.inputs), weights / weights.shape[-1]
        wanted = self._wanted(support)
        if z.shape[1] >= z.shape[2]:
            moment = self._moment(z, rows, weights)
            return torch.linalg.solve(moment, z.mT @ (scaled.unsqueeze(-1) * wanted)).mT.flatten(1)
        # With fewer instances than features, in the space of instances: Zᵀ S (Z Zᵀ S + ridge I)⁻¹ Y.
        gram = z @ z.mT * scaled.unsqueeze(-2)
        ridge = self._learned(rows, 0, self.ridge)[:, None, None] * torch.eye(z.shape[1]).to(z)
        dual = torch.linalg.solve(gram + ridge, wanted)
        return (z.mT @ (scaled.unsqueeze(-1) * dual)).mT.flatten(1)

    def adapt(self, rows: Tensor, support: Batch, weights: Tensor, init: Tensor | None) -> Adaptation:
        head = self.unroll(rows, support, weights, track=False)
        with torch.enable_grad():
            leaf = head.detach().requires_grad_()
            loss = self.inner_loss(rows, leaf, support, weights).sum()
            norm = torch.linalg.vector_norm(torch.autograd.grad(loss, leaf)[0], dim=1)
        small = math.sqrt(torch.finfo(head.dtype).eps) * (1 + torch.linalg.vector_norm(head, dim=1))
        return Adaptation(head, norm, norm <= small, 1)

    @property
    def _real(self) -> bool:
        return not self.output_loss.of_classes

    def _wanted(self, support: Batch) -> Tensor:
        if self._real:
            return support.targets
        return torch.nn.functional.one_hot(support.targets, self.ways or 0).to(support.inputs)

    def _learned(self, rows: Tensor, which: int, start: float) -> Tensor:
        """[n]: a positive number that is learned by its logarithm, so that l2 pulls it to where it starts."""
        return start * rows[:, which].exp() if self.learn else rows.new_full(rows.shape[:1], start)

    def _moment(self, z: Tensor, rows: Tensor, weights: Tensor) -> Tensor:
        scaled = (weights / weights.shape[-1]).unsqueeze(-1)
        ridge = self._learned(rows, 0, self.ridge)[:, None, None] * torch.eye(z.shape[-1]).to(z)
        return z.mT @ (scaled * z) + ridge

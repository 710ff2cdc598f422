"""Per-instance losses that can be differentiated three times, and their curvature at the outputs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.func import jvp, vjp


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """−log softmax(logits)[target] in nats: logits [..., C], targets [...] to [...]."""
    chosen = torch.gather(logits, -1, targets.unsqueeze(-1)).squeeze(-1)
    return torch.logsumexp(logits, dim=-1) - chosen


def weighted_mean(losses: Tensor, weights: Tensor) -> Tensor:
    """Σ_j weight_j loss_j / n over the last dimension; n is the count, so a removal does not rescale the others."""
    return (weights * losses).sum(dim=-1) / losses.shape[-1]


def accuracy(logits: Tensor, targets: Tensor, weights: Tensor | None = None) -> Tensor:
    """Share of instances whose largest logit is the target's, over the last dimension of `targets`.

    weights: as for `weighted_mean`, those of `Weights.ones(tasks)` where tasks are padded; ones if not given.
    """
    right = (logits.argmax(dim=-1) == targets).to(logits.dtype)
    return weighted_mean(right, torch.ones_like(right) if weights is None else weights)


def squared_error(outputs: Tensor, targets: Tensor) -> Tensor:
    """½ ‖outputs − targets‖² over the last dimension, the negative log-likelihood of a unit Gaussian."""
    return (outputs - targets).square().sum(dim=-1) / 2


class OutputLoss(ABC):
    """A loss as a function of a network's outputs [..., C], and the vectors that make up its Fisher matrix.

    `roots` returns vectors s with Σ_s s sᵀ equal to the Fisher of one instance; `sampled` one vector that equals it in
    expectation; `observed` the gradient at the true target (empirical Fisher).
    """

    of_classes: ClassVar[bool] = True
    """Targets are class indices; else real values."""

    @abstractmethod
    def values(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """[...]: the loss of each instance."""

    @abstractmethod
    def roots(self, outputs: Tensor) -> Tensor:
        """[C, ..., C]: Σ_c s_c s_cᵀ = ∂²loss/∂outputs², exactly."""

    @abstractmethod
    def curvature(self, outputs: Tensor, tangents: Tensor) -> Tensor:
        """∂²loss/∂outputs² times tangents [k, ..., C], of the same shape."""

    @abstractmethod
    def sampled(self, outputs: Tensor, generator: torch.Generator) -> Tensor:
        """[..., C]: the loss's gradient at a target drawn from the model itself."""

    @abstractmethod
    def observed(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """[..., C]: the loss's gradient at the true target (the empirical Fisher)."""


class SoftmaxLoss(OutputLoss):
    """Softmax cross-entropy; targets are class indices [...]."""

    def values(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return cross_entropy(outputs, targets)

    def roots(self, outputs: Tensor) -> Tensor:
        # diag p − p pᵀ = Σ_c p_c (e_c − p)(e_c − p)ᵀ: the gradients at every class, weighted by its probability.
        p = outputs.softmax(dim=-1)
        eye = torch.eye(p.shape[-1], dtype=p.dtype, device=p.device)
        return torch.stack([p[..., c, None].sqrt() * (p - e) for c, e in enumerate(eye)])

    def curvature(self, outputs: Tensor, tangents: Tensor) -> Tensor:
        p = outputs.softmax(dim=-1)
        return p * (tangents - (p * tangents).sum(dim=-1, keepdim=True))

    def sampled(self, outputs: Tensor, generator: torch.Generator) -> Tensor:
        p = outputs.softmax(dim=-1)
        likely = p.reshape(-1, p.shape[-1]).to(generator.device)
        drawn = torch.multinomial(likely, 1, generator=generator).reshape(p.shape[:-1])
        return self.observed(outputs, drawn.to(outputs.device))

    def observed(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return outputs.softmax(dim=-1) - torch.nn.functional.one_hot(targets, outputs.shape[-1]).to(outputs)


class SquaredLoss(OutputLoss):
    """½ ‖outputs − targets‖²; targets are [..., C]."""

    of_classes: ClassVar[bool] = False

    def values(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return squared_error(outputs, targets)

    def roots(self, outputs: Tensor) -> Tensor:
        eye = torch.eye(outputs.shape[-1], dtype=outputs.dtype, device=outputs.device)
        return torch.stack([e.expand_as(outputs) for e in eye])

    def curvature(self, outputs: Tensor, tangents: Tensor) -> Tensor:
        return tangents

    def sampled(self, outputs: Tensor, generator: torch.Generator) -> Tensor:
        drawn = torch.randn(outputs.shape, generator=generator, device=generator.device, dtype=outputs.dtype)
        return drawn.to(outputs.device)

    def observed(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return outputs - targets


class OneHotLoss(SquaredLoss):
    """½ ‖outputs − e‖², e one in the place of the class and zero elsewhere; targets are class indices [...]."""

    of_classes: ClassVar[bool] = True

    def values(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return squared_error(outputs, _one_hot(outputs, targets))

    def observed(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return outputs - _one_hot(outputs, targets)


def _one_hot(outputs: Tensor, targets: Tensor) -> Tensor:
    return torch.nn.functional.one_hot(targets, outputs.shape[-1]).to(outputs)


@dataclass(frozen=True, eq=False)
class Through(OutputLoss):
    """The loss of `outputs(features)`: features [..., d] are mapped to outputs [..., C], instance by instance."""

    loss: OutputLoss
    outputs: Callable[[Tensor], Tensor]

    def values(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return self.loss.values(self.outputs(outputs), targets)

    def roots(self, outputs: Tensor) -> Tensor:
        return self._pull(outputs, self.loss.roots)

    def curvature(self, outputs: Tensor, tangents: Tensor) -> Tensor:
        mapped, pull, *_ = vjp(self.outputs, outputs)
        moved = [jvp(self.outputs, (outputs,), (tangent,))[1] for tangent in tangents]
        return torch.stack([pull(c)[0] for c in self.loss.curvature(mapped, torch.stack(moved))])

    def sampled(self, outputs: Tensor, generator: torch.Generator) -> Tensor:
        return self._pull(outputs, lambda mapped: self.loss.sampled(mapped, generator).unsqueeze(0))[0]

    def observed(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return self._pull(outputs, lambda mapped: self.loss.observed(mapped, targets).unsqueeze(0))[0]

    def _pull(self, features: Tensor, vectors: Callable[[Tensor], Tensor]) -> Tensor:
        """Pull vectors [k, ..., C] at the outputs back to the features: [k, ..., d]."""
        mapped, pull, *_ = vjp(self.outputs, features)
        return torch.stack([pull(v)[0] for v in vectors(mapped)])

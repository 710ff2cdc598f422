"""Per-instance losses, smooth enough to be differentiated three times."""

from __future__ import annotations

import torch
from torch import Tensor


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """−log softmax(logits)[target] in nats: logits [..., C], targets [...] to [...]."""
    chosen = torch.gather(logits, -1, targets.unsqueeze(-1)).squeeze(-1)
    return torch.logsumexp(logits, dim=-1) - chosen


def weighted_mean(losses: Tensor, weights: Tensor) -> Tensor:
    """Σ_j weight_j loss_j / n over the last dimension; n is the count: removing never renormalises."""
    return (weights * losses).sum(dim=-1) / losses.shape[-1]


def accuracy(logits: Tensor, targets: Tensor) -> Tensor:
    """Share of instances whose largest logit is the target's, over the last dimension of `targets`."""
    return (logits.argmax(dim=-1) == targets).to(logits.dtype).mean(dim=-1)

"""Normalisation layers without running statistics, of plain operations: any order of derivative, under any batching.

Torch's own group and batch normalisation have fused kernels whose second derivatives cannot be batched over columns.
"""

from __future__ import annotations

import math
from abc import abstractmethod

import torch
from torch import Tensor, nn

from metafluence.errors import InputError

GROUPS = 8
"""Groups of channels of a `group` norm, where they divide the channels."""


class Norm(nn.Module):
    """(x − mean) / √(variance + eps), then a weight and a bias per channel where it is `affine`.

    Inputs are [n, channels, *places]. The variance is the biased one.
    """

    def __init__(self, channels: int, eps: float = 1e-5, affine: bool = True) -> None:
        super().__init__()
        self.channels, self.eps = channels, eps
        self.weight = nn.Parameter(torch.ones(channels)) if affine else None
        self.bias = nn.Parameter(torch.zeros(channels)) if affine else None

    def reset_parameters(self) -> None:
        """Weights of one, biases of zero."""
        if self.weight is not None and self.bias is not None:
            nn.init.ones_(self.weight)
            nn.init.zeros_(self.bias)

    @abstractmethod
    def average(self, values: Tensor) -> Tensor:
        """Means of values [n, channels, places] over what is normalised together: [n or 1, channels, 1]."""

    def forward(self, inputs: Tensor) -> Tensor:
        if inputs.dim() < 2 or inputs.shape[1] != self.channels:
            raise InputError(
                f"{type(self).__name__} is for {self.channels} channels; its inputs have shape {list(inputs.shape)}. "
                "Inputs are [n, channels, ...]."
            )
        flat = inputs.reshape(*inputs.shape[:2], -1)
        # Few passes over all values, backwards too: torch.var_mean, square, and subtracting means take more.
        centred = flat + (-self.average(flat))
        scale = (self.average(centred * centred) + self.eps).rsqrt()
        if self.weight is None or self.bias is None:
            return (centred * scale).reshape(inputs.shape)
        found = torch.addcmul(self.bias.unsqueeze(-1), centred, scale * self.weight.unsqueeze(-1))
        return found.reshape(inputs.shape)

    def extra_repr(self) -> str:
        return f"{self.channels}, eps={self.eps}, affine={self.weight is not None}"


class TaskBatchNorm(Norm):
    """Batch normalisation by the statistics of the instances it is called with, and no others.

    A learner calls it with one task's support or with its query, or with both, so that no task sees another. A removed
    instance counts in the statistics as before: it is the weight of its loss that is zero.
    """

    def average(self, values: Tensor) -> Tensor:
        return _mean(values, (0, 2))


class GroupNorm(Norm):
    """Normalisation of every instance by itself, over groups of channels (Wu and He 2018)."""

    def __init__(self, groups: int, channels: int, eps: float = 1e-5, affine: bool = True) -> None:
        if groups < 1 or channels % groups:
            raise InputError(
                f"GroupNorm cannot cut {channels} channels into {groups} groups. Take groups that divide channels."
            )
        super().__init__(channels, eps, affine)
        self.groups = groups

    def average(self, values: Tensor) -> Tensor:
        means = _mean(values.reshape(len(values), self.groups, -1), (-1,))
        return means.repeat_interleave(self.channels // self.groups, dim=1)

    def extra_repr(self) -> str:
        return f"{self.groups}, {super().extra_repr()}"


def _mean(values: Tensor, dims: tuple[int, ...]) -> Tensor:
    """Tensor.mean with dimensions kept, whose backward pass divides the means alone and not all values."""
    return values.sum(dim=dims, keepdim=True) * (1 / math.prod(values.shape[d] for d in dims))


NORMS = ("group", "batch", "none")


def norm(name: str, channels: int) -> nn.Module:
    """The normalisation called `name`: group, batch (of one task's support or query), or none.

    Raises InputError for others.
    """
    if name not in NORMS:
        raise InputError(f"Unknown norm {name!r}. Known: {', '.join(NORMS)}.")
    if name == "group":
        return GroupNorm(math.gcd(GROUPS, channels), channels)
    return TaskBatchNorm(channels) if name == "batch" else nn.Identity()

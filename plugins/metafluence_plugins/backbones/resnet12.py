"""The residual network of few-shot learning."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from metafluence import Backbone, Count, InputError, activation, norm, pooled_size, pooling


@dataclass(frozen=True)
class ResNet12(Backbone):
    """A residual block of three 3x3 convolutions per entry of `widths`, 2x2 pooling after each, then the mean over all
    places (Lee et al. 2019, without their DropBlock, which would make the objective random).

    norm: as in conv4. Its leaky-relu has no second derivative; where influence is to be exact, take silu.
    """

    widths: tuple[Count, ...] = (64, 160, 320, 640)
    norm: Literal["group", "batch", "none"] = "group"
    activation: Literal["tanh", "softplus", "gelu", "silu", "relu", "leaky-relu"] = "leaky-relu"
    pooling: Literal["average", "max"] = "average"

    def __post_init__(self) -> None:
        if not self.widths:
            raise InputError("resnet12 has no block: widths is empty. Give one width for each block, as [64, 160].")

    def module(self, input_shape: torch.Size, outputs: int | None) -> nn.Module:
        pooled_size("resnet12", input_shape, len(self.widths))
        layers: list[nn.Module] = []
        depth = input_shape[0]
        for width in self.widths:
            layers += [Residual(depth, width, self.norm, self.activation), pooling(self.pooling)]
            depth = width
        layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(start_dim=1)]
        if outputs is not None:
            layers.append(nn.Linear(depth, outputs))
        return nn.Sequential(*layers)


class Residual(nn.Module):
    """Three convolutions with norms, added to a 1x1 convolution of the same inputs, then an activation."""

    def __init__(self, depth: int, width: int, norm_name: str, activation_name: str) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for position, channels in enumerate((depth, width, width)):
            layers += [nn.Conv2d(channels, width, 3, padding=1, bias=False), norm(norm_name, width)]
            if position < 2:
                layers.append(activation(activation_name))
        self.path = nn.Sequential(*layers)
        self.shortcut = nn.Sequential(nn.Conv2d(depth, width, 1, bias=False), norm(norm_name, width))
        self.activation = activation(activation_name)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.activation(self.path(inputs) + self.shortcut(inputs))

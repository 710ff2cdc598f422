"""A small convolutional network, smooth throughout."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from metafluence import Backbone, Count, activation, pooled_size


@dataclass(frozen=True)
class SmallConv(Backbone):
    """Per entry of `channels`: a 3x3 convolution, an activation, and 2x2 average pooling (max is not smooth)."""

    channels: tuple[Count, ...] = (8, 8)
    activation: Literal["tanh", "softplus", "gelu", "silu", "relu", "leaky-relu"] = "softplus"

    def module(self, input_shape: torch.Size, outputs: int | None) -> nn.Module:
        height, width = pooled_size("small-conv", input_shape, len(self.channels))
        depth = input_shape[0]
        layers: list[nn.Module] = []
        for size in self.channels:
            layers += [nn.Conv2d(depth, size, 3, padding=1), activation(self.activation), nn.AvgPool2d(2)]
            depth = size
        layers.append(nn.Flatten(start_dim=1))
        if outputs is not None:
            layers.append(nn.Linear(depth * height * width, outputs))
        return nn.Sequential(*layers)

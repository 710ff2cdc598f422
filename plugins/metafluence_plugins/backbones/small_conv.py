"""A small convolutional network, smooth throughout."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from metafluence import Backbone, InputError, activation


@dataclass(frozen=True)
class SmallConv(Backbone):
    """Per entry of `channels`: a 3x3 convolution, an activation, and 2x2 average pooling (max is not smooth)."""

    channels: tuple[int, ...] = (8, 8)
    activation: str = "softplus"

    def module(self, input_shape: torch.Size, outputs: int | None) -> nn.Module:
        if len(input_shape) != 3:
            raise InputError(
                f"small-conv takes images [channels, height, width]; these inputs are {list(input_shape)}. "
                "Reshape the data, or use the backbone mlp."
            )
        depth, height, width = input_shape
        layers: list[nn.Module] = []
        for size in self.channels:
            layers += [nn.Conv2d(depth, size, 3, padding=1), activation(self.activation), nn.AvgPool2d(2)]
            depth, height, width = size, height // 2, width // 2
        if not height * width:
            raise InputError(
                f"small-conv pools {len(self.channels)} times, which leaves nothing of {list(input_shape)}. "
                "Use fewer channels entries."
            )
        layers.append(nn.Flatten(start_dim=1))
        if outputs is not None:
            layers.append(nn.Linear(depth * height * width, outputs))
        return nn.Sequential(*layers)

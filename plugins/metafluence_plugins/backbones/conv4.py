"""The four convolutional blocks of few-shot learning."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from metafluence import Backbone, Count, activation, norm, pooled_size, pooling


@dataclass(frozen=True)
class Conv4(Backbone):
    """Four blocks: 3x3 convolution to `width` channels, norm, activation, 2x2 pooling (Vinyals et al. 2016).

    norm: group (each instance by itself), batch (one task's support, or its query, together), none. As published it is
    batch, relu and max; the defaults are smooth and treat each instance alone, as influence functions want it.
    """

    width: Count = 64
    norm: Literal["group", "batch", "none"] = "group"
    activation: Literal["tanh", "softplus", "gelu", "silu", "relu", "leaky-relu"] = "silu"
    pooling: Literal["average", "max"] = "average"

    def module(self, input_shape: torch.Size, outputs: int | None) -> nn.Module:
        height, width = pooled_size("conv4", input_shape, 4)
        layers: list[nn.Module] = []
        depth = input_shape[0]
        for _ in range(4):
            layers.append(nn.Conv2d(depth, self.width, 3, padding=1))
            layers += [norm(self.norm, self.width), activation(self.activation), pooling(self.pooling)]
            depth = self.width
        layers.append(nn.Flatten(start_dim=1))
        if outputs is not None:
            layers.append(nn.Linear(depth * height * width, outputs))
        return nn.Sequential(*layers)

"""A multi-layer perceptron."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from metafluence import Backbone, Count, activation


@dataclass(frozen=True)
class MLP(Backbone):
    """Flattened inputs, `hidden` layers with one activation after each, then logits where they are asked for.

    bias: whether layers have one.
    """

    hidden: tuple[Count, ...] = (32,)
    activation: Literal["tanh", "softplus", "gelu", "silu", "relu", "leaky-relu"] = "tanh"
    bias: bool = True

    def module(self, input_shape: torch.Size, outputs: int | None) -> nn.Module:
        layers: list[nn.Module] = [nn.Flatten(start_dim=1)]
        width = math.prod(input_shape)
        for size in self.hidden:
            layers += [nn.Linear(width, size, bias=self.bias), activation(self.activation)]
            width = size
        if outputs is not None:
            layers.append(nn.Linear(width, outputs, bias=self.bias))
        return nn.Sequential(*layers)

"""Backbones named in configuration: recipes that build a `torch.nn.Module` once the shape of the inputs is known."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import nn

from metafluence.errors import InputError, out_of_memory
from metafluence.registry import Component


class Backbone(Component, ABC):
    """A frozen dataclass whose fields are the architecture."""

    @abstractmethod
    def module(self, input_shape: torch.Size, outputs: int | None) -> nn.Module:
        """A network for instances of `input_shape`; `outputs` logits, or features where it is None."""


# Influence functions need a second derivative (a third for the exact total Hessian), which ReLU does not have.
ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "tanh": nn.Tanh,
    "softplus": nn.Softplus,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "relu": nn.ReLU,
    "leaky-relu": lambda: nn.LeakyReLU(0.1),
}

POOLINGS: dict[str, Callable[[], nn.Module]] = {"average": lambda: nn.AvgPool2d(2), "max": lambda: nn.MaxPool2d(2)}


def activation(name: str) -> nn.Module:
    """The activation called `name`. Raises InputError for others."""
    if name not in ACTIVATIONS:
        raise InputError(f"Unknown activation {name!r}. Known: {', '.join(ACTIVATIONS)}.")
    return ACTIVATIONS[name]()


def pooling(name: str) -> nn.Module:
    """2x2 pooling called `name`: average, which is smooth, or max. Raises InputError for others."""
    if name not in POOLINGS:
        raise InputError(f"Unknown pooling {name!r}. Known: {', '.join(POOLINGS)}.")
    return POOLINGS[name]()


def pooled_size(name: str, input_shape: torch.Size, times: int) -> tuple[int, int]:
    """Height and width of images [channels, height, width] after `times` poolings of 2x2.

    Raises InputError, in the name of the backbone, for what is no image or is too small.
    """
    if len(input_shape) != 3:
        raise InputError(
            f"{name} takes images [channels, height, width]; these inputs are {list(input_shape)}. "
            "Reshape the data, or use the backbone mlp."
        )
    height, width = (side // 2**times for side in input_shape[1:])
    if not height * width:
        raise InputError(
            f"{name} pools {times} times, which leaves nothing of {list(input_shape)}. "
            f"Give images of at least {2**times}x{2**times}, or a backbone that pools less (small-conv with fewer "
            "channels entries)."
        )
    return height, width


def build_module(backbone: Backbone | nn.Module, input_shape: torch.Size, outputs: int | None) -> nn.Module:
    """A module from a recipe; a module of the user's own is taken as it is.

    Raises InputError for a recipe whose module does not fit into memory.
    """
    if not isinstance(backbone, Backbone):
        return backbone
    try:
        return backbone.module(input_shape, outputs)
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error) and "overflow" not in str(error):
            raise
        wanted = "features" if outputs is None else f"{outputs} outputs"
        raise InputError(
            f"The backbone {backbone} with {wanted} does not fit into memory. Give it smaller widths, or fewer outputs."
        ) from error

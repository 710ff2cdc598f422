"""Backbones named in configuration: recipes that build a `torch.nn.Module` once the shape of the inputs is known."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import nn

from metafluence.errors import InputError


class Backbone(ABC):
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
}


def activation(name: str) -> nn.Module:
    """The activation called `name`. Raises InputError for others."""
    if name not in ACTIVATIONS:
        raise InputError(f"Unknown activation {name!r}. Known: {', '.join(ACTIVATIONS)}.")
    return ACTIVATIONS[name]()


def build_module(backbone: Backbone | nn.Module, input_shape: torch.Size, outputs: int | None) -> nn.Module:
    """A module from a recipe; a module of the user's own is taken as it is."""
    return backbone.module(input_shape, outputs) if isinstance(backbone, Backbone) else backbone

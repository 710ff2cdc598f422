"""Refuses mixed precision in a recorded loop."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_pre_hook

from metafluence.errors import InputError

INSTEAD = (
    "Leave autocast and GradScaler out, and train in float32 or float64: recorded steps are made again in the "
    "parameters' own type, and half precision rounds by more than an item changes."
)


@contextmanager
def refusing_mixed_precision(step: int, device: str) -> Iterator[None]:
    """Raises InputError within where a module is called under `torch.autocast` of a type of device."""

    def refuse(module: nn.Module, inputs: Any) -> None:
        if torch.is_autocast_enabled(device):
            raise InputError(
                f"At step {step} the loop calls {type(module).__name__} under torch.autocast "
                f"({str(torch.get_autocast_dtype(device)).removeprefix('torch.')}). {INSTEAD}"
            )

    handle = register_module_forward_pre_hook(refuse)
    try:
        yield
    finally:
        handle.remove()


def refuse_scaler(optimiser: torch.optim.Optimizer) -> None:
    """Raises InputError where a fused optimiser is given scaled gradients by a GradScaler."""
    if getattr(optimiser, "grad_scale", None) is not None:
        raise InputError(f"A GradScaler makes the steps of {type(optimiser).__name__} on scaled gradients. {INSTEAD}")

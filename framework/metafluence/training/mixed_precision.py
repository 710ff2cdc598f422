"""Refuses mixed and half precision in a recorded loop."""

from __future__ import annotations

from collections.abc import Collection, Iterator
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


def refuse_autocast(step: int, device: str, called: str = "recorder.step(batch)") -> None:
    """Raises InputError where `torch.autocast` of a type of device is on, as the loop calls something."""
    if torch.is_autocast_enabled(device):
        name = str(torch.get_autocast_dtype(device)).removeprefix("torch.")
        raise InputError(f"At step {step} the loop calls {called} under torch.autocast ({name}). {INSTEAD}")


@contextmanager
def refusing_autocast(step: int, device: str) -> Iterator[None]:
    """Raises InputError within where a module is called under `torch.autocast` of a type of device."""

    def refuse(module: nn.Module, inputs: Any) -> None:
        refuse_autocast(step, device, type(module).__name__)

    handle = register_module_forward_pre_hook(refuse)
    try:
        yield
    finally:
        handle.remove()


def refuse_scaler(optimiser: torch.optim.Optimizer) -> None:
    """Raises InputError where a fused optimiser is given scaled gradients by a GradScaler."""
    if getattr(optimiser, "grad_scale", None) is not None:
        raise InputError(f"A GradScaler makes the steps of {type(optimiser).__name__} on scaled gradients. {INSTEAD}")


def check_types(types: Collection[torch.dtype]) -> None:
    """Raises InputError where parameters and tasks are not all float32, or all float64."""
    names = sorted(str(one).removeprefix("torch.") for one in types)
    if len(names) > 1:
        raise InputError(f"Parameters and tasks are of the types {', '.join(names)}. Give them one.")
    if names[0] not in ("float32", "float64"):
        raise InputError(f"Parameters and tasks are {names[0]}. {INSTEAD}")

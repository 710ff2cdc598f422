"""Where tensors live: the devices that a study can name, and what is set so that numbers are the same on all of them.

All randomness is drawn on the processor and then moved, so that draws do not depend on the device.
"""

from __future__ import annotations

import os
import re

import torch
from torch import Tensor
from torch.utils import deterministic

from metafluence.errors import ConfigError

CPU = torch.device("cpu")
DEVICES = re.compile(r"cpu|cuda(:\d+)?|mps")
SAYS = "Give cpu, cuda, cuda:N (the one of number N, from 0) or mps"


def device_name(name: str) -> str:
    """The name, if it is one of a device. Raises ValueError."""
    if not DEVICES.fullmatch(name):
        raise ValueError(SAYS)
    return name


def find_device(name: str, dtype: torch.dtype) -> torch.device:
    """The device of this name, with its number, ready for this dtype.

    Raises ConfigError where there is no such device, it is not there, or has no such numbers.
    """
    if not DEVICES.fullmatch(name):
        raise ConfigError(f"There is no device {name!r}. {SAYS}.")
    device = torch.device(name)
    if device.type == "cpu":
        return device
    count = device_count(device.type)
    if (device.index or 0) >= count:
        there = ", ".join(available_devices())
        more = f" This torch ({torch.__version__}) was built without it." if _lacks(device.type) else ""
        raise ConfigError(f"device {name} is not available here; there is {there}.{more} Set device to one of those.")
    if device.type == "mps" and dtype == torch.float64:
        raise ConfigError(
            "device mps has no float64. Set dtype: float32 (with a trainer such as adam, as newton is for float64), or "
            "device: cpu."
        )
    full_precision()
    repeatable(device)
    own = device == torch.device("cuda") and torch.cuda.is_available()  # several processes may have one each
    number = torch.cuda.current_device() if own else device.index or 0
    return torch.device(device.type, number)


def available_devices() -> list[str]:
    """Their names: the processor, then what else there is."""
    several = [f"cuda:{i}" for i in range(device_count("cuda"))]
    return ["cpu", *several, *(["mps"] if device_count("mps") else [])]


def device_count(kind: str) -> int:
    """How many devices of a kind there are."""
    if kind == "mps":
        return int(torch.backends.mps.is_available())
    module = torch.get_device_module(kind)
    return module.device_count() if module.is_available() else 0


def full_precision() -> None:
    """Let float32 products be float32 ones: by default convolutions on a GPU keep 10 bits of the fraction (TF32)."""
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False


def repeatable(device: torch.device) -> None:
    """Let a GPU add in a fixed order, so that a run that is made again gives the same bits.

    torch warns of an operation that has no such order.
    """
    if device.type != "cuda":
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False
    torch.use_deterministic_algorithms(True, warn_only=True)
    # It guards against reading what was never written, which costs time.
    deterministic.fill_uninitialized_memory = False  # pyright: ignore[reportAttributeAccessIssue]


def settle(found: Tensor) -> None:
    """Wait until the device has made it, so that a clock can be read: work on a GPU is only queued when it is asked."""
    if found.device.type != "cpu":
        found.reshape(-1)[:1].cpu()


def _lacks(kind: str) -> bool:
    return kind == "cuda" and torch.version.cuda is None and torch.version.hip is None

"""Files of a `state_dict`: of `torch.save`, opened without running code from them, and safetensors."""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from metafluence.errors import DataError

STATE_DICT_SUFFIXES = (".pt", ".pth", ".ckpt", ".bin", ".tar", ".safetensors")
"""Of files that hold a state_dict."""


def read_state_dict(path: str | Path) -> dict[str, Tensor]:
    """The tensors by name in a file of `torch.save` or a `.safetensors` file, on the processor.

    A file may hold more (an optimiser, an epoch) beside a state_dict. `torch.save` files are opened with
    `weights_only=True`, which runs no code from them.

    Raises:
        DataError: the file cannot be read, or holds no state_dict or several.
    """
    path = Path(path)
    try:
        if path.suffix == ".safetensors":
            return load_file(str(path))
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, ValueError, SafetensorError) as error:
        raise DataError(f"{path} cannot be read ({error}). Give a file of torch.save or safetensors.") from error
    except pickle.UnpicklingError as error:
        raise DataError(
            f"{path} holds more than tensors and plain values, and opening it could run code. Save the state_dict "
            "alone: torch.save(model.state_dict(), path)."
        ) from error
    found = dict(_state_dicts(content, ""))
    if len(found) != 1:
        what = f"{len(found)} ({', '.join(found)})" if found else "none"
        raise DataError(f"{path} should hold one state_dict, but holds {what}. Save model.state_dict() alone.")
    return next(iter(found.values()))


def _state_dicts(content: Any, name: str) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Dictionaries of tensors by name in `content`, outermost first."""
    if not isinstance(content, Mapping):
        return
    if content and all(isinstance(k, str) and isinstance(v, Tensor) for k, v in content.items()):
        yield name, dict(content)
        return
    for key, part in content.items():
        if isinstance(key, str):
            yield from _state_dicts(part, f"{name}.{key}" if name else key)

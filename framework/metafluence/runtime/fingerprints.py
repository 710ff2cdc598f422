"""What a component is, as a short hash: its class, its configuration, and its code where that is not ours."""

from __future__ import annotations

import dataclasses
import hashlib
import inspect
from pathlib import Path
from typing import Any

from torch import Tensor, nn

import metafluence

OURS = ("metafluence", "metafluence_plugins")


def component_fingerprint(component: Any) -> str:
    """A hash of a component and everything it is made of.

    Ours are known by the version of the package; anybody else's also by the text of its file, so that stored results
    of a local component are not reused after it was edited.
    """
    return hashlib.sha256(_describe(component).encode()).hexdigest()[:16]


def _describe(value: Any) -> str:
    if isinstance(value, nn.Module):
        return module_fingerprint(value)
    if not dataclasses.is_dataclass(value) or isinstance(value, type):
        return repr(value)
    parts = [_code(type(value))]
    parts += [f"{f.name}={_describe(getattr(value, f.name))}" for f in dataclasses.fields(value)]
    return f"{type(value).__qualname__}({', '.join(parts)})"


def _code(cls: type) -> str:
    if cls.__module__.split(".")[0] in OURS:
        return metafluence.__version__
    try:
        return hashlib.sha256(Path(inspect.getfile(cls)).read_bytes()).hexdigest()
    except (TypeError, OSError):
        return cls.__module__


def module_fingerprint(module: nn.Module) -> str:
    """A hash of the architecture and of all that is not trained; trained parameters are a fit's, not the module's."""
    digest = hashlib.sha256(repr(module).encode())
    trained = {name: p for name, p in module.named_parameters() if p.requires_grad}
    digest.update(repr([(name, tuple(p.shape)) for name, p in trained.items()]).encode())
    for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
        if name not in trained:
            digest.update(name.encode())
            hash_tensor(digest, tensor)
    return digest.hexdigest()[:16]


def hash_tensor(digest: hashlib._Hash, tensor: Tensor) -> None:
    """Feed a tensor's type, shape and bytes to a hash."""
    digest.update(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
    digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())

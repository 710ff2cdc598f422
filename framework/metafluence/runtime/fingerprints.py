"""What a component is, as a short hash: its class, its settings and its code."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import types
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

import metafluence
from metafluence.runtime.source_code import code_fingerprint


def component_fingerprint(component: Any) -> str:
    """A hash of a component: its class, its settings, all that it is made of, and the code of each.

    So that stored results of a component are not reused after its code, or that of a helper of its own, was changed.
    """
    return hashlib.sha256(_describe(component).encode()).hexdigest()[:16]


def _describe(value: Any) -> str:
    match value:
        case nn.Module():
            text = module_fingerprint(value)
        case Tensor():
            digest = hashlib.sha256()
            hash_tensor(digest, value)
            text = digest.hexdigest()
        case functools.partial():
            text = f"partial({_describe(value.func)}, {_describe(value.args)}, {_describe(value.keywords)})"
        case types.FunctionType() | type():  # their repr holds an address, or not their code
            text = f"{value.__module__}.{value.__qualname__}({code_fingerprint(value)})"
        case dict():
            text = f"{{{', '.join(f'{key!r}: {_describe(one)}' for key, one in value.items())}}}"
        case _ if type(value) in (list, tuple):
            text = f"{type(value).__name__}({', '.join(_describe(one) for one in value)})"
        case _ if dataclasses.is_dataclass(value):
            parts = [metafluence.__version__, code_fingerprint(type(value))]
            parts += [f"{f.name}={_describe(getattr(value, f.name))}" for f in dataclasses.fields(value)]
            text = f"{type(value).__qualname__}({', '.join(parts)})"
        case _:
            text = repr(value)
    return text


def module_fingerprint(module: nn.Module) -> str:
    """A hash of the architecture, its code and what is not trained; what is trained is a fit's."""
    digest = hashlib.sha256(repr(module).encode())
    for kind in sorted({code_fingerprint(type(part)) for part in module.modules()}):
        digest.update(kind.encode())
    trained = {name: p for name, p in module.named_parameters() if p.requires_grad}
    digest.update(repr([(name, tuple(p.shape)) for name, p in trained.items()]).encode())
    for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
        if name not in trained:
            digest.update(name.encode())
            hash_tensor(digest, tensor)
    return digest.hexdigest()[:16]


def hash_tensor(digest: hashlib._Hash, tensor: Tensor) -> None:
    """Feed a tensor's type, shape and bytes to a hash."""
    hash_parts(digest, tensor.dtype, tensor.shape, [tensor])


def hash_parts(digest: hashlib._Hash, dtype: torch.dtype, shape: torch.Size, parts: Iterable[Tensor]) -> None:
    """As `hash_tensor`, of a tensor whose rows come in parts."""
    digest.update(f"{dtype}{tuple(shape)}".encode())
    for part in parts:
        flat = part.detach().cpu().contiguous().reshape(-1)
        digest.update(flat.view(torch.uint8).numpy().data)  # numpy has no bfloat16

"""How much memory autograd keeps for a computation."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks


def graph_bytes(build: Callable[[], object]) -> int:
    """Bytes that autograd saves while `build` runs; each storage counts once."""
    seen: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        seen[storage.data_ptr()] = storage.nbytes()
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        kept = build()
    del kept
    return sum(seen.values())

"""How much memory work may take at once, and how much autograd keeps for a computation.

All limits are here, in bytes. They bound the speed of results, never their values.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

KEPT_GRAPH_BYTES = 2**27
"""On a processor: graphs of the tasks of one chunk, kept for Hessian products. Past it the processor waits for memory
(conv4 takes 2.5 times as long)."""

GRADIENT_GRAPH_BYTES = 2**26
"""On a processor: graphs of the tasks of one chunk, for one gradient and then freed."""

COLUMN_BYTES = 2**27
"""Graphs times the columns that go through them together. Larger batches only fall out of the caches: at 256 columns
a column costs twice as much as at 64."""

ROW_BYTES = 2**25
"""Per-instance gradients [instances, P] formed together: more of them fall out of the caches."""

ACTIVATION_BYTES = 2**23
"""The largest layer's inputs, over the tasks whose layers are traced together."""

TRACE_BYTES = 2**25
"""The widest buffer while the gradients of several groups of instances are formed by their layers."""


def count_within(limit: float, each: float) -> int:
    """How many items of `each` bytes fit into `limit` bytes; at least one."""
    return int(max(1, limit // each))


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


def join_rows(parts: Iterable[Sequence[Tensor]]) -> list[Tensor]:
    """What parts are made of, along the rows, as `torch.cat` of each; no derivatives pass.

    Each part is copied as it comes, and memory for the rows is taken a few times only: small tensors that stay, one for
    each part, would lie between the large ones that come and go, so that freed memory could not be used again.
    """
    joined: list[tuple[Tensor, int]] = []
    for part in parts:
        held = [one.detach() for one in part]
        joined = [
            _with_rows(*old, one) for old, one in zip(joined or [(one[:0], 0) for one in held], held, strict=True)
        ]
    return [whole[:count].clone() for whole, count in joined]


def _with_rows(whole: Tensor, count: int, more: Tensor) -> tuple[Tensor, int]:
    """`more` after the first `count` rows of `whole`, which is replaced by a larger one where it is full."""
    last = count + len(more)
    if last > len(whole):
        larger = more.new_empty(max(last, 2 * len(whole)), *more.shape[1:])
        larger[:count] = whole[:count]
        whole = larger
    whole[count:last] = more
    return whole, last

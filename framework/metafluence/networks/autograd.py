"""Vector-Jacobian products along many columns at once, on a kept graph."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.autograd import grad


def batched_vjp(outputs: Sequence[Tensor], inputs: Sequence[Tensor], cotangents: Sequence[Tensor]) -> list[Tensor]:
    """Σ_o cotangent_o · ∂output_o/∂input for each input, [k, *input.shape], for k columns [k, *output.shape].

    The graph is kept. Outputs that depend on nothing are passed over; an input that nothing depends on gets zeros,
    never None.
    """
    columns = cotangents[0].shape[0]
    live = [(o, c) for o, c in zip(outputs, cotangents, strict=True) if o.requires_grad]
    if not live or not inputs:
        return [i.new_zeros(columns, *i.shape) for i in inputs]
    single = columns == 1  # vmap over one column only costs
    found = grad(
        [o for o, _ in live],
        list(inputs),
        [c[0] if single else c for _, c in live],
        retain_graph=True,
        allow_unused=True,
        is_grads_batched=not single,
    )
    return [
        i.new_zeros(columns, *i.shape) if g is None else (g.unsqueeze(0) if single else g)
        for i, g in zip(inputs, found, strict=True)
    ]


def gradients(output: Tensor, inputs: Sequence[Tensor], create_graph: bool = False) -> list[Tensor]:
    """∂output/∂input for each input; zeros where the output does not depend on one."""
    if not inputs or not output.requires_grad:
        return [torch.zeros_like(i) for i in inputs]
    found = grad(output, list(inputs), create_graph=create_graph, retain_graph=True, allow_unused=True)
    return [torch.zeros_like(i) if g is None else g for i, g in zip(inputs, found, strict=True)]


def depends_on(output: Tensor, leaf: Tensor) -> bool:
    """Whether `output` was computed from `leaf`: what `grad` would find, from the graph without a backward pass."""
    waiting, seen = [output.grad_fn], set()
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        if getattr(node, "variable", None) is leaf:
            return True
        seen.add(node)
        waiting += [before for before, _ in node.next_functions]
    return output is leaf

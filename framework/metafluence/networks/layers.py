"""The layers behind a network's loss, over a stack of tasks that each have their own parameters.

Kronecker factors and per-instance gradients are made of them: for every layer the inputs it saw, and, for any gradient
at the network's outputs, the gradient at the layer's own output.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from metafluence.errors import SolverError
from metafluence.networks.flat_module import FlatModule, mixing_layer
from metafluence.networks.layer_proof import proven_layers
from metafluence.networks.losses import OutputLoss
from metafluence.networks.trace import Layer, Trace, output_shapes
from metafluence.runtime import ACTIVATION_BYTES, TRACE_BYTES, count_within


@dataclass(frozen=True, eq=False)
class LayeredLoss:
    """Σ_j weights_j loss(outputs_j, targets_j) + shift/2 ‖θ‖² of every task, as seen from its layers.

    outputs: [n, m, C] for m instances. weights: [n, m], already divided by whatever the mean is taken over.
    pull: cotangents of the outputs [n, m, C] to those of every layer's output, [n, m, places, o] each.
    others: names of trained parameters that belong to none of `layers`, with their places in the flat vector;
    pull_others: cotangents [n, m, C] to per-instance gradients of all of them joined, [n, m, q].
    """

    outputs: Tensor
    targets: Tensor
    weights: Tensor
    loss: OutputLoss
    shift: float
    layers: tuple[Layer, ...]
    pull: Callable[[Tensor], list[Tensor]]
    others: tuple[tuple[str, Tensor], ...] = ()
    pull_others: Callable[[Tensor], Tensor] = lambda cotangents: cotangents[..., :0]


class LayerStack:
    """The layers of `count` tasks, a few at a time: a large stack of activations falls out of the caches.

    at: the LayeredLoss of a slice of the tasks.
    """

    def __init__(self, count: int, at: Callable[[slice], LayeredLoss]) -> None:
        self.count = count
        self.at = at

    def chunks(self) -> Iterator[LayeredLoss]:
        """All tasks, in order, in chunks whose largest buffer is about ACTIVATION_BYTES."""
        start, size = 0, 1
        while start < self.count:
            loss = self.at(slice(start, min(start + size, self.count)))
            yield loss
            start += size
            per_task = max((x.inputs[0].numel() * x.inputs.element_size() for x in loss.layers), default=1)
            size = count_within(ACTIVATION_BYTES, per_task)


def layered_loss(
    network: FlatModule, flat: Tensor, inputs: Tensor, targets: Tensor, weights: Tensor, loss: OutputLoss, shift: float
) -> LayeredLoss:
    """The layers of `network` at parameters flat [n, P], on instances inputs [n, m, *shape].

    Layers are those of `proven_layers`. Raises SolverError for a network that mixes its instances (batch statistics),
    for which no per-instance curvature exists.
    """
    mixing = mixing_layer(network.module)
    if mixing is not None:
        raise SolverError(
            f"Layer {mixing} mixes the instances of a task, so the network has no per-instance curvature. Use cg, or "
            "GroupNorm in its place."
        )
    trace = Trace(network, flat.detach(), inputs, proven_layers(network, inputs.shape[2:]))
    return LayeredLoss(
        trace.outputs.detach(), targets, weights, loss, shift, trace.layers, trace.pull, trace.others, trace.pull_others
    )


Cotangents = Callable[[Tensor, slice], Tensor]
"""Cotangents g [k, some, m, ...] of the outputs of some groups, from the outputs [some, m, ...] and which they are."""


def gradients_each(network: FlatModule, meta: Tensor, inputs: Tensor, cotangents: Cotangents) -> Tensor:
    """Jᵀ g of every group of instances on its own: inputs [n, m, *shape] to [k, n, P].

    From one pass over all of them: a layer's gradient is the product of its inputs and its output's gradients.
    """
    n, m = inputs.shape[:2]
    names = proven_layers(network, inputs.shape[2:])
    found: Tensor | None = None
    start, size = 0, 1
    while start < n:
        some = slice(start, min(start + size, n))
        trace = Trace(network, meta.detach().unsqueeze(0), inputs[some].flatten(0, 1).unsqueeze(0), names)
        g = cotangents(trace.outputs[0].detach().unflatten(0, (-1, m)), some)
        if found is None:
            found = meta.new_empty(len(g), n, network.size)
        for own, out in zip(g, found, strict=True):
            trace.group_gradients(own.flatten(0, 1).unsqueeze(0), out[some])
        start += size
        widest = max((x.inputs[0].numel() // x.inputs.shape[1] for x in trace.layers), default=1)
        size = count_within(TRACE_BYTES, meta.element_size() * max(m * widest, network.size))
    return meta.new_empty(0, n, network.size) if found is None else found


def multiplications(network: FlatModule, shape: torch.Size) -> int:
    """Of one instance's pass through the linear layers: their parameters, as often as each is used."""
    modules = {name: network.module.get_submodule(name) for name in proven_layers(network, shape)}
    inputs = network.flat().new_zeros(1, *shape)
    shapes = output_shapes(network, network.flat(), inputs, modules)
    return sum(
        module.weight[0].numel() * shapes[name][0].numel()  # type: ignore[operator, union-attr]
        for name, module in modules.items()
    )

"""The layers behind a network's loss, over a stack of tasks that each have their own parameters.

What Kronecker factors are made of: for every layer the inputs it saw, and, for any gradient at the network's outputs,
the gradient at the layer's own output.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.autograd import grad
from torch.func import functional_call, vjp, vmap
from torch.nn.modules.batchnorm import _NormBase

from metafluence.errors import SolverError
from metafluence.losses import OutputLoss
from metafluence.modules import FlatModule

CHUNK_BYTES = 2**23


@dataclass(frozen=True, eq=False)
class Layer:
    """A layer y = W a, whose W [o, i] is a part of the flat parameters; a bias is W's last column, and a ends in 1.

    index: [o, i], where W's entries lie in the flat vector. inputs: a of every task, instance and place where the
    layer is applied (a convolution's patches), [n, m, places, i].
    """

    name: str
    index: Tensor
    inputs: Tensor


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
        """All tasks, in order, in chunks whose largest buffer is about CHUNK_BYTES."""
        start, size = 0, 1
        while start < self.count:
            loss = self.at(slice(start, min(start + size, self.count)))
            yield loss
            start += size
            per_task = max((x.inputs[0].numel() * x.inputs.element_size() for x in loss.layers), default=1)
            size = max(1, CHUNK_BYTES // per_task)


def layered_loss(
    network: FlatModule, flat: Tensor, inputs: Tensor, targets: Tensor, weights: Tensor, loss: OutputLoss, shift: float
) -> LayeredLoss:
    """The layers of `network` at parameters flat [n, P], on instances inputs [n, m, *shape].

    Layers are Linear and Conv2d (zero padding, groups = 1), each used once. Raises SolverError for a network that
    mixes its instances (batch statistics), for which no per-instance curvature exists.
    """
    for name, module in network.module.named_modules():
        if isinstance(module, _NormBase):
            raise SolverError(
                f"Layer {name!r} ({type(module).__name__}) mixes the instances of a task, so the network has no "
                "per-instance curvature. Use cg, or GroupNorm in its place."
            )
    flat = flat.detach()
    uses = Counter(id(p) for _, p in network.module.named_parameters(remove_duplicate=False))
    known = {name: module for name, module in network.module.named_modules() if _supported(module, uses)}
    shapes = _output_shapes(network, flat[0], inputs[0, :1], known)
    layers = {name: known[name] for name, seen in shapes.items() if len(seen) == 1}
    leaves = {
        name: torch.zeros(*inputs.shape[:2], *shapes[name][0], dtype=flat.dtype, device=flat.device, requires_grad=True)
        for name in layers
    }

    def run(parameters: Tensor, instances: Tensor, added: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        seen: dict[str, Tensor] = {}

        def hook(name: str) -> Callable[..., Tensor]:
            def add(module: nn.Module, given: tuple[Tensor, ...], output: Tensor) -> Tensor:
                seen[name] = given[0]
                return output + added[name]

            return add

        handles = [module.register_forward_hook(hook(name)) for name, module in layers.items()]
        try:
            return network(parameters, instances), seen
        finally:
            for handle in handles:
                handle.remove()

    with torch.enable_grad():
        outputs, seen = vmap(run)(flat, inputs, leaves)
    positions = network.positions()
    made = []
    for name, module in layers.items():
        index = positions[f"{name}.weight" if name else "weight"].flatten(1)
        patches = _patches(module, seen[name].detach())
        if module.bias is not None:
            index = torch.cat([index, positions[f"{name}.bias" if name else "bias"].unsqueeze(1)], dim=1)
            patches = torch.cat([patches, patches.new_ones(*patches.shape[:-1], 1)], dim=-1)
        made.append(Layer(name, index, patches))

    def pull(cotangents: Tensor) -> list[Tensor]:
        found = grad(outputs, list(leaves.values()), cotangents, retain_graph=True)
        return [_places(module, g) for module, g in zip(layers.values(), found, strict=True)]

    others = tuple((name, at.flatten()) for name, at in positions.items() if name.rpartition(".")[0] not in layers)

    def pull_others(cotangents: Tensor) -> Tensor:
        names = [name for name, _ in others]

        def one(parameters: Tensor, instance: Tensor, cotangent: Tensor) -> Tensor:
            named = {name: parameters[where] for name, where in positions.items()}

            def outputs_of(some: dict[str, Tensor]) -> Tensor:
                return functional_call(network.module, {**named, **some}, (instance.unsqueeze(0),))[0]

            found = vjp(outputs_of, {name: named[name] for name in names})[1](cotangent)[0]
            return torch.cat([found[name].flatten() for name in names])  # type: ignore[index]

        return vmap(vmap(one, in_dims=(None, 0, 0)))(flat, inputs, cotangents)

    return LayeredLoss(outputs.detach(), targets, weights, loss, shift, tuple(made), pull, others, pull_others)


def _supported(module: nn.Module, uses: Counter[int]) -> bool:
    """Whether the layer's parameters are all trained and its own, and its map is linear in one matrix."""
    if any(not p.requires_grad or uses[id(p)] > 1 for p in module.parameters(recurse=False)):
        return False
    if isinstance(module, nn.Conv2d):
        return module.groups == 1 and module.padding_mode == "zeros"
    return isinstance(module, nn.Linear)


def _output_shapes(
    network: FlatModule, flat: Tensor, instance: Tensor, layers: dict[str, nn.Module]
) -> dict[str, list[torch.Size]]:
    """Shapes of each layer's outputs for one instance, one per use."""
    shapes: dict[str, list[torch.Size]] = {name: [] for name in layers}
    handles = [
        module.register_forward_hook(lambda _m, _a, output, name=name: shapes[name].append(output.shape[1:]))  # type: ignore[union-attr]
        for name, module in layers.items()
    ]
    try:
        with torch.no_grad():
            network(flat, instance)
    finally:
        for handle in handles:
            handle.remove()
    return shapes


def _patches(module: nn.Module, inputs: Tensor) -> Tensor:
    """What the layer's matrix is applied to: [n, m, *shape] to [n, m, places, i]."""
    n, m = inputs.shape[:2]
    if isinstance(module, nn.Conv2d):
        padded = nn.functional.pad(inputs.flatten(0, 1), module._reversed_padding_repeated_twice)
        columns = nn.functional.unfold(padded, module.kernel_size, module.dilation, stride=module.stride)
        return columns.mT.unflatten(0, (n, m))
    return inputs.reshape(n, m, -1, inputs.shape[-1])


def _places(module: nn.Module, cotangents: Tensor) -> Tensor:
    """Cotangents of a layer's output, [n, m, *shape] to [n, m, places, o]."""
    if isinstance(module, nn.Conv2d):
        return cotangents.flatten(3).mT
    return cotangents.reshape(*cotangents.shape[:2], -1, cotangents.shape[-1])

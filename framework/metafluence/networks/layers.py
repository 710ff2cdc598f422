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

from metafluence.errors import SolverError
from metafluence.networks.flat_module import FlatModule, mixing_layer
from metafluence.networks.losses import OutputLoss
from metafluence.runtime import ACTIVATION_BYTES, TRACE_BYTES, count_within


@dataclass(frozen=True, eq=False)
class Layer:
    """A layer y = W a, whose W [o, i] is a part of the flat parameters; a bias is W's last column, and a ends in 1.

    index: [o, i], where W's entries lie in the flat vector. inputs: a of every task, instance and place where the
    layer is applied (a convolution's patches), [n, m, places, i].
    """

    name: str
    index: Tensor
    inputs: Tensor
    has_bias: bool = False

    @property
    def weight_shape(self) -> tuple[int, int]:
        """[o, i] without the bias."""
        return self.index.shape[0], self.index.shape[1] - self.has_bias


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

    Layers are Linear and Conv2d (zero padding, groups = 1), each used once. Raises SolverError for a network that
    mixes its instances (batch statistics), for which no per-instance curvature exists.
    """
    mixing = mixing_layer(network.module)
    if mixing is not None:
        raise SolverError(
            f"Layer {mixing} mixes the instances of a task, so the network has no per-instance curvature. Use cg, or "
            "GroupNorm in its place."
        )
    trace = Trace(network, flat.detach(), inputs)
    return LayeredLoss(
        trace.outputs.detach(), targets, weights, loss, shift, trace.layers, trace.pull, trace.others, trace.pull_others
    )


def gradients_each(network: FlatModule, meta: Tensor, inputs: Tensor, cotangents: Tensor) -> Tensor:
    """Jᵀ g of every group of instances on its own: inputs [n, m, *shape], cotangents [n, m, ...] to [n, P].

    From one pass over all of them: a layer's gradient is the product of its inputs and its output's gradients.
    """
    n, m = inputs.shape[:2]
    found = meta.new_empty(n, network.size)
    start, size = 0, 1
    while start < n:
        some = slice(start, min(start + size, n))
        trace = Trace(network, meta.detach().unsqueeze(0), inputs[some].flatten(0, 1).unsqueeze(0))
        gradients = cotangents[some].flatten(0, 1).unsqueeze(0)
        rows = found[some]
        for layer, pulled in zip(trace.layers, trace.pull(gradients), strict=True):
            per_group = (some.stop - start, m * layer.inputs.shape[2], -1)
            own, (outputs, width) = pulled.reshape(per_group), layer.weight_shape
            # The weight lies in one piece, row by row, and so does the bias; a scatter by index costs far more.
            first = int(layer.index[0, 0])
            weight = own.mT @ layer.inputs.reshape(per_group)[..., :width]
            rows[:, first : first + outputs * width] = weight.flatten(1)
            if layer.has_bias:
                first = int(layer.index[0, -1])
                rows[:, first : first + outputs] = own.sum(dim=1)
        if trace.others:
            outside = trace.pull_others(gradients).reshape(some.stop - start, m, -1)
            rows[:, torch.cat([where for _, where in trace.others])] = outside.sum(dim=1)
        start += size
        widest = max((x.inputs[0].numel() // x.inputs.shape[1] for x in trace.layers), default=1)
        size = count_within(TRACE_BYTES, meta.element_size() * max(m * widest, network.size))
    return found


class Trace:
    """One pass through a network at parameters flat [n, P], on instances inputs [n, m, *shape], with its graph kept.

    outputs [n, m, ...]; layers, pull, others and pull_others as in `LayeredLoss`.
    """

    def __init__(self, network: FlatModule, flat: Tensor, inputs: Tensor) -> None:
        self._network, self._flat, self._inputs = network, flat, inputs
        uses = Counter(id(p) for _, p in network.module.named_parameters(remove_duplicate=False))
        known = {name: module for name, module in network.module.named_modules() if _supported(module, uses)}
        shapes = _output_shapes(network, flat[0], inputs[0, :1], known)
        self._modules = {name: known[name] for name, seen in shapes.items() if len(seen) == 1}
        lead = inputs.shape[:2]
        self._leaves = {
            name: torch.zeros(*lead, *shapes[name][0], dtype=flat.dtype, device=flat.device, requires_grad=True)
            for name in self._modules
        }
        with torch.enable_grad():
            if len(flat) == 1:  # vmap over one only costs
                outputs, seen = self._run(flat[0], inputs[0], {k: v[0] for k, v in self._leaves.items()})
                self.outputs, seen = outputs.unsqueeze(0), {k: v.unsqueeze(0) for k, v in seen.items()}
            else:
                self.outputs, seen = vmap(self._run)(flat, inputs, self._leaves)
        positions = network.positions()
        made = []
        for name, module in self._modules.items():
            index = positions[f"{name}.weight" if name else "weight"].flatten(1)
            patches = _patches(module, seen[name].detach())
            if module.bias is not None:
                index = torch.cat([index, positions[f"{name}.bias" if name else "bias"].unsqueeze(1)], dim=1)
                patches = torch.cat([patches, patches.new_ones(*patches.shape[:-1], 1)], dim=-1)
            made.append(Layer(name, index, patches, module.bias is not None))
        self.layers = tuple(made)
        self.others = tuple(
            (name, at.flatten()) for name, at in positions.items() if name.rpartition(".")[0] not in self._modules
        )

    def pull(self, cotangents: Tensor) -> list[Tensor]:
        found = grad(self.outputs, list(self._leaves.values()), cotangents, retain_graph=True)
        return [_places(module, g) for module, g in zip(self._modules.values(), found, strict=True)]

    def pull_others(self, cotangents: Tensor) -> Tensor:
        names, positions = [name for name, _ in self.others], self._network.positions()

        def one(parameters: Tensor, instance: Tensor, cotangent: Tensor) -> Tensor:
            named = {name: parameters[where] for name, where in positions.items()}

            def outputs_of(some: dict[str, Tensor]) -> Tensor:
                return functional_call(self._network.module, {**named, **some}, (instance.unsqueeze(0),))[0]

            found = vjp(outputs_of, {name: named[name] for name in names})[1](cotangent)[0]
            return torch.cat([found[name].flatten() for name in names])  # type: ignore[index]

        return vmap(vmap(one, in_dims=(None, 0, 0)))(self._flat, self._inputs, cotangents)

    def _run(self, parameters: Tensor, instances: Tensor, added: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        seen: dict[str, Tensor] = {}

        def hook(name: str) -> Callable[..., Tensor]:
            def add(module: nn.Module, given: tuple[Tensor, ...], output: Tensor) -> Tensor:
                seen[name] = given[0]
                return output + added[name]

            return add

        handles = [module.register_forward_hook(hook(name)) for name, module in self._modules.items()]
        try:
            return self._network(parameters, instances), seen
        finally:
            for handle in handles:
                handle.remove()


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

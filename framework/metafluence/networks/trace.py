"""One pass through a network that keeps, for every layer, its inputs and the gradients at its output."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.autograd import grad
from torch.func import vjp, vmap

from metafluence.networks.flat_module import FlatModule


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


class Trace:
    """One pass through a network at parameters flat [n, P], on instances inputs [n, m, *shape], with its graph kept.

    names: the layers, Linear or Conv2d, to look into. outputs [n, m, ...]; layers, pull, others and pull_others as in
    `LayeredLoss`.
    """

    def __init__(self, network: FlatModule, flat: Tensor, inputs: Tensor, names: Sequence[str]) -> None:
        self._network, self._flat, self._inputs = network, flat, inputs
        self._modules = {name: network.module.get_submodule(name) for name in names}
        shapes = output_shapes(network, flat[0], inputs[0, :1], self._modules)
        lead = inputs.shape[:2]
        self._leaves = {
            name: torch.zeros(*lead, *shapes[name][0][1:], dtype=flat.dtype, device=flat.device, requires_grad=True)
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
        if not self._leaves:
            return []
        found = grad(self.outputs, list(self._leaves.values()), cotangents, retain_graph=True)
        return [_places(module, g) for module, g in zip(self._modules.values(), found, strict=True)]

    def pull_others(self, cotangents: Tensor) -> Tensor:
        names = [name for name, _ in self.others]
        return autograd_gradients(self._network, self._flat, self._inputs, cotangents, names)

    def group_gradients(self, cotangents: Tensor, out: Tensor) -> None:
        """Jᵀ g of g consecutive groups of the (one task's) instances: cotangents [1, g m, ...] into out [g, P]."""
        groups = len(out)
        for layer, pulled in zip(self.layers, self.pull(cotangents), strict=True):
            per_group = (groups, self._inputs.shape[1] // groups * layer.inputs.shape[2], -1)
            own, (outputs, width) = pulled.reshape(per_group), layer.weight_shape
            # The weight lies in one piece, row by row, and so does the bias; a scatter by index costs far more, and a
            # product that is copied there costs several times one that is made there.
            first = int(layer.index[0, 0])
            weight = out[:, first : first + outputs * width].unflatten(1, (outputs, width))
            torch.bmm(own.mT, layer.inputs.reshape(per_group)[..., :width], out=weight)
            if layer.has_bias:
                first = int(layer.index[0, -1])
                out[:, first : first + outputs] = own.sum(dim=1)
        if self.others:
            outside = self.pull_others(cotangents).reshape(groups, self._inputs.shape[1] // groups, -1)
            out[:, torch.cat([where for _, where in self.others])] = outside.sum(dim=1)

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


def autograd_gradients(
    network: FlatModule, flat: Tensor, inputs: Tensor, cotangents: Tensor, names: Sequence[str]
) -> Tensor:
    """Per-instance gradients of the named parameters joined, by plain autograd: [n, m, q]."""
    positions = network.positions()

    def one(parameters: Tensor, instance: Tensor, cotangent: Tensor) -> Tensor:
        named = {name: parameters[where] for name, where in positions.items()}

        def outputs_of(some: dict[str, Tensor]) -> Tensor:
            return network.with_parameters({**named, **some}, instance.unsqueeze(0))[0]

        found = vjp(outputs_of, {name: named[name] for name in names})[1](cotangent)[0]
        return torch.cat([found[name].flatten() for name in names])  # type: ignore[index]

    return vmap(vmap(one, in_dims=(None, 0, 0)))(flat, inputs, cotangents)


def output_shapes(
    network: FlatModule, flat: Tensor, instances: Tensor, layers: dict[str, nn.Module]
) -> dict[str, list[torch.Size]]:
    """Shapes of each layer's outputs for `instances`, one per use."""
    shapes: dict[str, list[torch.Size]] = {name: [] for name in layers}
    handles = [
        module.register_forward_hook(lambda _m, _a, output, name=name: shapes[name].append(output.shape))  # type: ignore[union-attr]
        for name, module in layers.items()
    ]
    try:
        with torch.no_grad():
            network(flat, instances)
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

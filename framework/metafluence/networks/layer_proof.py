"""Which modules of a network are linear layers, proven: by their code, and by their gradients against autograd's."""

from __future__ import annotations

import warnings
from collections import Counter

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from metafluence.networks.flat_module import FlatModule
from metafluence.networks.trace import Trace, autograd_gradients, output_shapes

INSTANCES = 3
_ERRORS = (RuntimeError, ValueError, NotImplementedError)
"""What torch raises for a network that cannot be looked into, in float64 or at all."""
CLOSE = 1e-10
"""How far a layer's per-instance gradients may lie from autograd's, relatively, in float64."""
ROUNDING = 1e-12
"""The same relative to all gradients of the layer: a bias before a normalisation has rounding noise for a gradient."""


def proven_layers(network: FlatModule, shape: torch.Size) -> tuple[str, ...]:
    """Names of the layers y = W a + b, in the order of the network, for instances of `shape`. Found once and kept.

    A layer is a Linear, or a Conv2d with zero padding and one group, with torch's own forward, no hooks and no
    parametrisation; its parameters are all trained and no other module's; it is called once. That its parameters are
    used nowhere else is seen on a small random batch in float64: gradients made of its inputs and of the gradients at
    its output are autograd's. What looks like a layer and fails that is named in a warning. Everything that is not a
    proven layer is differentiated by autograd.
    """
    if shape not in network.proven_layers:
        network.proven_layers[shape] = _prove(network, shape)
    return network.proven_layers[shape]


def _prove(network: FlatModule, shape: torch.Size) -> tuple[str, ...]:
    uses = Counter(id(p) for _, p in network.module.named_parameters(remove_duplicate=False))
    names = [name for name, module in network.module.named_modules() if _looks_linear(module, uses)]
    if not names:
        return ()
    double = FlatModule(network.module, torch.float64)
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(1, INSTANCES, *shape, generator=generator, dtype=torch.float64)
    # Away from where the network stands, for a factor that starts at zero would hide what is behind it.
    flat = double.flat()
    flat = flat + 0.1 * (0.1 + flat.abs()) * torch.randn(flat.shape, generator=generator, dtype=flat.dtype)
    try:
        names = _used_once(double, flat, inputs[0], names)
        failed = _unequal(double, flat, inputs, names)
    except _ERRORS:
        failed = {name for name in names if not _stands_alone(double, flat, inputs, name)}
    if failed:
        parameters = [name for name in double.positions() if name.rpartition(".")[0] in failed]
        warnings.warn(
            f"{', '.join(parameters)}: these parameters do more than their layers say (used elsewhere, or on other "
            "dimensions), so that their gradients are taken by autograd, which is slower.",
            stacklevel=3,
        )
    return tuple(name for name in names if name not in failed)


def _looks_linear(module: nn.Module, uses: Counter[int]) -> bool:
    """Whether the module's code is that of one matrix, whose parameters are all trained and its own."""
    kind = nn.Conv2d if isinstance(module, nn.Conv2d) else nn.Linear
    if not isinstance(module, kind) or type(module).forward is not kind.forward or "forward" in module.__dict__:
        return False
    if isinstance(module, nn.Conv2d):
        own = type(module)._conv_forward is nn.Conv2d._conv_forward and "_conv_forward" not in module.__dict__
        if not own or module.groups != 1 or module.padding_mode != "zeros":
            return False
    hooked = module._forward_hooks or module._forward_pre_hooks
    if hooked or type(module).__call__ is not nn.Module.__call__ or parametrize.is_parametrized(module):
        return False
    own = dict(module.named_parameters())
    wanted = {"weight"} if module.bias is None else {"weight", "bias"}
    return set(own) == wanted and all(p.requires_grad and uses[id(p)] == 1 for p in own.values())


def _used_once(network: FlatModule, flat: Tensor, instances: Tensor, names: list[str]) -> list[str]:
    """The layers that are called once, on one row or image for each instance."""
    modules = {name: network.module.get_submodule(name) for name in names}
    for some in (instances, instances[:-1]):
        shapes = output_shapes(network, flat, some, modules)
        modules = {n: m for n, m in modules.items() if len(shapes[n]) == 1 and shapes[n][0][0] == len(some)}
    return list(modules)


def _stands_alone(network: FlatModule, flat: Tensor, inputs: Tensor, name: str) -> bool:
    """Whether the layer passes where it is the only one looked into."""
    try:
        return not _unequal(network, flat, inputs, _used_once(network, flat, inputs[0], [name]))
    except _ERRORS:
        return False


def _unequal(network: FlatModule, flat: Tensor, inputs: Tensor, names: list[str]) -> set[str]:
    """The layers with a parameter whose per-instance gradients are not autograd's."""
    trace = Trace(network, flat.unsqueeze(0), inputs, names)
    generator = torch.Generator().manual_seed(1)
    cotangents = torch.randn(trace.outputs.shape, generator=generator, dtype=flat.dtype)
    found = flat.new_zeros(INSTANCES, network.size)
    trace.group_gradients(cotangents, found)
    wanted = autograd_gradients(network, flat.unsqueeze(0), inputs, cotangents, list(network.positions()))[0]
    layers, failed = network.layers(), set()
    for layer in names:
        parts = [(found[:, where], wanted[:, where]) for where in layers[layer].values()]
        noise = ROUNDING * sum(float(other.norm()) for _, other in parts)
        if not all(float((one - other).norm()) <= CLOSE * float(other.norm()) + noise for one, other in parts):
            failed.add(layer)
    return failed

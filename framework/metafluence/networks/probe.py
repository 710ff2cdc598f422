"""Checks on a few random inputs that a user's module can be differentiated as learners do it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.autograd import grad
from torch.func import vmap

from metafluence.errors import InputError
from metafluence.networks.autograd import batched_vjp
from metafluence.networks.flat_module import FlatModule, mixing_layer

INSTANCES = 3

FIXES = (
    ("nn.DataParallel", "it splits batches over devices; give the module within, model.module"),
    ("scaled_dot_product", "its fused attention has no second derivative; call it in sdpa_kernel(SDPBackend.MATH)"),
    ("random operation", "it is random; remove what draws numbers, or call eval() on it"),
    ("inplace", "it changes a tensor in place; write y = f(x) for f_(x), and inplace=False"),
    ("in-place", "it changes a tensor in place; write y = f(x) for f_(x), and inplace=False"),
    (".item()", "it takes a number out of a tensor; compute with tensors"),
    ("data-dependent", "what it computes depends on values; use torch.where in place of if"),
    ("differentiate twice", "its backward cannot be differentiated; write it with differentiable operations"),
    ("not implemented", "it has no derivative of that order; use another operation"),
    ("setup_context", "its autograd.Function cannot be batched; give it setup_context and generate_vmap_rule"),
    ("does not require grad", "it cuts the gradient (detach, no_grad, argmax, rounding); remove that"),
)
"""Part of torch's error message, and the sentence that explains how to fix it."""


def probe_module(module: nn.Module, input_shape: torch.Size, dtype: torch.dtype, device: torch.device | str) -> None:
    """Run `module` as learners do: with parameters stacked over tasks, differentiated twice, several columns together.

    Takes a few passes over INSTANCES instances. Raises InputError naming the layer, the reason and how to fix it.
    """
    network = FlatModule(module, dtype, device)
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(INSTANCES, *input_shape, generator=generator, dtype=dtype).to(device)
    flat = network.flat()
    outputs = _plain(network, flat, inputs)
    _keeps_no_state(network, flat, inputs, outputs)
    with _blaming(network.module, "does not work for tasks with parameters of their own (torch.func.vmap)"):
        vmap(network)(flat.expand(2, -1).clone(), inputs.expand(2, *inputs.shape).clone())
    why = "cannot be differentiated twice"
    try:
        _twice(lambda theta: network(theta, inputs), flat)
    except (RuntimeError, NotImplementedError) as error:
        name, message = _undifferentiable(network, flat, inputs), str(error)
        if isinstance(network.module.get_submodule(name), nn.GroupNorm):
            message = "several columns together break it; use metafluence's GroupNorm(groups, channels)"
        raise InputError(_sentence(_where(network.module, name), why, message)) from error


def _plain(network: FlatModule, flat: Tensor, inputs: Tensor) -> Tensor:
    """The outputs; raises InputError where a learner cannot use them."""
    module, shape = network.module, list(inputs.shape[1:])
    with torch.no_grad(), _blaming(module, f"fails on inputs {shape}", (Exception,)):
        outputs = network(flat, inputs)
    name = type(module).__name__
    if not isinstance(outputs, Tensor):
        raise InputError(f"{name} gives a {type(outputs).__name__}. Wrap it so that it gives one tensor.")
    if outputs.dtype != flat.dtype:
        raise InputError(
            f"{name} gives {outputs.dtype} where its inputs are {flat.dtype}. Let it give real numbers of the type of "
            "its inputs (no argmax, no rounding, no .float())."
        )
    if outputs.shape[:1] != inputs.shape[:1]:
        raise InputError(
            f"{name} gives outputs of shape {list(outputs.shape)} for {len(inputs)} instances. The first dimension "
            "must be the instances'."
        )
    return outputs


def _keeps_no_state(network: FlatModule, flat: Tensor, inputs: Tensor, outputs: Tensor) -> None:
    """Refuse outputs that depend on chance, on earlier calls, or on the other instances of a batch."""
    module, name = network.module, type(network.module).__name__
    buffers = {name: buffer.clone() for name, buffer in module.named_buffers()}
    with torch.no_grad():
        again, fewer = network(flat, inputs), network(flat, inputs[:-1])
    for key, buffer in module.named_buffers():
        if not torch.equal(buffer, buffers[key]):
            owner = key.rpartition(".")[0]
            raise InputError(
                f"{_where(module, owner)} changes its buffer {key.rpartition('.')[2]!r} in each call, which mixes "
                "tasks. Keep no running statistics: use metafluence's TaskBatchNorm or GroupNorm."
            )
    if not torch.equal(again, outputs):
        raise InputError(
            f"{name} gives other outputs for the same inputs when it is called again. Remove what is random "
            "(functional dropout, noise), or call eval() on it."
        )
    close = torch.finfo(flat.dtype).eps ** 0.5 * (1 + float(outputs.abs().max()))
    if mixing_layer(module) is None and float((fewer - outputs[:-1]).abs().max()) > close:
        raise InputError(
            f"{name} gives an instance other outputs when there are others in the batch, so tasks would see each "
            "other. Normalise by metafluence's TaskBatchNorm (one task's instances together) or GroupNorm."
        )


def _twice(function: Callable[[Tensor], Tensor | tuple[Tensor, ...]], at: Tensor) -> None:
    """Differentiate a scalar of `function` at `at`, and that gradient along two columns together."""
    with torch.enable_grad():
        leaf = at.detach().requires_grad_()
        given = function(leaf)
        outputs = given[0] if isinstance(given, tuple) else given
        (first,) = grad(outputs.square().sum(), leaf, create_graph=True)
    batched_vjp([first], [leaf], [torch.ones_like(at).expand(2, *at.shape)])


def _undifferentiable(network: FlatModule, flat: Tensor, inputs: Tensor) -> str:
    """Name of the innermost layer that fails on its own inputs; empty (the module itself) if none does."""
    seen: dict[str, tuple[nn.Module, tuple[Tensor, ...]]] = {}

    def keep(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def hook(layer: nn.Module, given: tuple[Tensor, ...]) -> None:
            if given and all(isinstance(part, Tensor) for part in given) and given[0].is_floating_point():
                seen.setdefault(name, (layer, tuple(part.detach().clone() for part in given)))

        return hook

    handles = [m.register_forward_pre_hook(keep(name)) for name, m in network.module.named_modules()]
    try:
        with torch.no_grad():
            network(flat, inputs)
    finally:
        for handle in handles:
            handle.remove()
    for name, (layer, (first, *others)) in reversed(seen.items()):  # the innermost are entered last
        try:
            _twice(lambda x, layer=layer, others=others: layer(x, *others), first)
        except (RuntimeError, NotImplementedError):
            return name
    return ""


@contextmanager
def _blaming(
    module: nn.Module, why: str, kinds: tuple[type[Exception], ...] = (RuntimeError, NotImplementedError)
) -> Iterator[None]:
    """Turn an error inside into one that names the innermost layer that was running."""
    running: list[str] = []

    def leave(*_: object) -> None:
        running.pop()

    handles = []
    for name, layer in module.named_modules():
        handles.append(layer.register_forward_pre_hook(lambda _m, _a, name=name: running.append(name)))
        handles.append(layer.register_forward_hook(leave))
    try:
        yield
    except InputError:
        raise
    except kinds as error:
        raise InputError(_sentence(_where(module, running[-1] if running else ""), why, str(error))) from error
    finally:
        for handle in handles:
            handle.remove()


def _where(module: nn.Module, name: str) -> str:
    layer = module.get_submodule(name)
    return f"Layer {name!r} ({type(layer).__name__})" if name else f"The module {type(layer).__name__} itself"


def _sentence(where: str, why: str, error: str) -> str:
    message = error.strip().split("\n", maxsplit=1)[0]
    fix = next((fix for part, fix in FIXES if part.lower() in error.lower()), "")
    return f"{where} {why}: {fix or message}." + (f" (torch: {message[:160]})" if fix else "")

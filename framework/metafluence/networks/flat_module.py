"""Any `torch.nn.Module` as a function of one flat parameter vector, for one task or for a stack of them."""

from __future__ import annotations

from copy import deepcopy

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase
from torch.nn.parameter import UninitializedParameter

from metafluence.errors import InputError
from metafluence.networks.normalisation import TaskBatchNorm


class FlatModule:
    """A module evaluated at flat parameters [P]; the module's own parameters are never changed.

    Raises InputError for layers that would make the objective random, or mix tasks through running statistics.
    """

    def __init__(self, module: nn.Module, dtype: torch.dtype, device: torch.device | str = "cpu") -> None:
        check_module(module)
        self.module = deepcopy(module).to(dtype=dtype, device=device)
        self.device = torch.device(device)
        parameters = {name: p for name, p in self.module.named_parameters() if p.requires_grad}
        self._names = list(parameters)
        # Modules may share a parameter, and one module may have several names: each of its places is set once. (Torch's
        # own tying sets a module of two names twice, and then leaves it changed.)
        first = {id(p): name for name, p in parameters.items()}
        self._shared = {
            f"{place}.{name}" if place else name: first[id(p)]
            for place, layer in self.module.named_modules()
            for name, p in layer.named_parameters(recurse=False, remove_duplicate=False)
            if id(p) in first
        }
        self._shapes = [p.shape for p in parameters.values()]
        self._sizes = [p.numel() for p in parameters.values()]
        self.size = sum(self._sizes)
        self.proven_layers: dict[torch.Size, tuple[str, ...]] = {}
        """By the shape of instances, filled by `proven_layers`."""
        if not self.size:
            raise InputError(f"{type(module).__name__} has no trainable parameter.")

    def flat(self) -> Tensor:
        """The module's own parameters, [P]."""
        return torch.cat([p.detach().reshape(-1) for p in self.module.parameters() if p.requires_grad])

    def initial(self, generator: torch.Generator | None) -> Tensor:
        """Fresh parameters [P] drawn from `generator` by the layers' own rules; the module's own where it is None."""
        if generator is None:
            return self.flat()
        seed = int(torch.randint(2**31, (), generator=generator, device=generator.device))
        fresh = deepcopy(self)
        fresh.module.cpu()  # layers draw where they are
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            for layer in fresh.module.modules():
                reset = getattr(layer, "reset_parameters", None)
                if callable(reset):
                    reset()
        return fresh.flat().to(self.device)

    @property
    def mixes_instances(self) -> bool:
        """An instance's output depends on the others in its batch, by batch statistics."""
        return mixing_layer(self.module) is not None

    def positions(self) -> dict[str, Tensor]:
        """Where each trained parameter lies in the flat vector, in its own shape."""
        parts = torch.arange(self.size).split(self._sizes)
        return {n: p.reshape(shape) for n, p, shape in zip(self._names, parts, self._shapes, strict=True)}

    @property
    def names(self) -> dict[str, str]:
        """The names of trained parameters in a `state_dict`, several of shared ones, and the one in `positions`."""
        return dict(self._shared)

    def constants(self) -> dict[str, Tensor]:
        """What is in a `state_dict` and not trained: frozen parameters, and buffers."""
        return {name: part for name, part in self.module.state_dict().items() if name not in self._shared}

    def layers(self) -> dict[str, dict[str, Tensor]]:
        """By layer, where each of its trained parameters lies in the flat vector, flat and in order."""
        found: dict[str, dict[str, Tensor]] = {}
        for name, where in self.positions().items():
            found.setdefault(name.rpartition(".")[0], {})[name] = where.flatten()
        return found

    def __call__(self, flat: Tensor, inputs: Tensor) -> Tensor:
        """Outputs for `inputs` [n, *shape] at parameters [P]."""
        parts = flat.split(self._sizes)
        named = {n: part.reshape(shape) for n, part, shape in zip(self._names, parts, self._shapes, strict=True)}
        return self.with_parameters(named, inputs)

    def with_parameters(self, named: dict[str, Tensor], inputs: Tensor) -> Tensor:
        """Outputs for `inputs` [n, *shape], the trained parameters given by name, as in `positions`."""
        placed = {place: named[name] for place, name in self._shared.items()}
        return functional_call(self.module, placed, (inputs,), tie_weights=False)

    def stacked(self, flat: Tensor, inputs: Tensor) -> Tensor:
        """Outputs [N, n, ...] for a stack: parameters [N, P], inputs [N, n, *shape]."""
        return vmap(self)(flat, inputs)


def mixing_layer(module: nn.Module) -> str | None:
    """The first layer that computes an instance's output from the others of its batch too, as "'name' (Type)"."""
    for name, layer in module.named_modules():
        if isinstance(layer, TaskBatchNorm | _BatchNorm):
            return f"{name!r} ({type(layer).__name__})"
    return None


def check_module(module: nn.Module) -> None:
    """Refuse what cannot be differentiated as a fixed function of its parameters."""
    for name, layer in module.named_modules():
        where = f"Layer {name or type(module).__name__!r} ({type(layer).__name__})"
        if any(isinstance(p, UninitializedParameter) for p in layer.parameters(recurse=False)):
            raise InputError(
                f"{where} is lazy and does not know its shape yet, so its parameters cannot be counted. Call the "
                "module once on a batch of inputs first."
            )
        if isinstance(layer, _NormBase) and layer.track_running_stats:
            raise InputError(
                f"{where} keeps running statistics, which mix tasks. mf.per_task_norms(module) converts batch norms "
                "to metafluence's TaskBatchNorm (the statistics of one task's support or query, as in training mode); "
                "or use GroupNorm."
            )
        if isinstance(layer, nn.modules.dropout._DropoutNd) and layer.p > 0:
            raise InputError(
                f"{where} is random, so the objective has no fixed minimum. Set p=0 or remove it; regularise by l2."
            )

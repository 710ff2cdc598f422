"""Batch normalisation that keeps running statistics, converted to the statistics of one task's instances."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parameter import UninitializedParameter

from metafluence.networks.normalisation import Norm, TaskBatchNorm


def running_norms(module: nn.Module) -> list[str]:
    """The batch norms that keep running statistics, by name."""
    return [name for name, layer in module.named_modules() if isinstance(layer, _BatchNorm) and _runs(layer)]


def per_task_norms(module: nn.Module) -> nn.Module:
    """A copy whose batch norms use the statistics of the instances that they are called with, and keep none.

    That is what they compute in training mode (`module.train()`). Learners call a network with one task's support, or
    with its query. Parameters keep their names, order and values; running statistics are left out.

    Example:
        >>> per_task_norms(nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3)))
        Sequential(
          (0): Linear(in_features=2, out_features=3, bias=True)
          (1): TaskBatchNorm(3, eps=1e-05, affine=True)
        )
    """
    return _replaced(module, _converted)


def _runs(layer: _BatchNorm) -> bool:
    return layer.track_running_stats and not any(isinstance(p, UninitializedParameter) for p in layer.parameters())


def _converted(layer: _BatchNorm) -> TaskBatchNorm:
    own = TaskBatchNorm(layer.num_features, layer.eps, layer.affine)
    own.weight, own.bias = layer.weight, layer.bias  # the same objects, where parameters are shared or frozen
    return own.train(layer.training)


class FixedNorm(Norm):
    """A batch norm in evaluation mode: by running statistics that stay as they are."""

    mean: Tensor
    variance: Tensor

    def __init__(self, layer: _BatchNorm) -> None:
        super().__init__(layer.num_features, layer.eps, layer.affine)
        self.weight, self.bias = layer.weight, layer.bias
        self.register_buffer("mean", layer.running_mean)
        self.register_buffer("variance", layer.running_var)

    def average(self, values: Tensor) -> Tensor:
        raise NotImplementedError

    def forward(self, inputs: Tensor) -> Tensor:
        def each(values: Tensor) -> Tensor:
            return values.reshape(-1, *(1 for _ in inputs.shape[2:]))

        found = (inputs - each(self.mean)) * each((self.variance + self.eps).rsqrt())
        return found if self.weight is None or self.bias is None else found * each(self.weight) + each(self.bias)


def evaluated_norms(module: nn.Module) -> nn.Module:
    """A copy whose batch norms use their running statistics, as after `module.eval()`, and leave them as they are."""
    return _replaced(module, FixedNorm)


def _replaced(module: nn.Module, by: Callable[[_BatchNorm], Norm]) -> nn.Module:
    """A copy with every batch norm that keeps running statistics replaced."""
    copy = deepcopy(module)
    for name, layer in list(copy.named_modules(remove_duplicate=False)):
        if isinstance(layer, _BatchNorm) and _runs(layer):
            if not name:
                return by(layer)
            place, _, last = name.rpartition(".")
            setattr(copy.get_submodule(place), last, by(layer))
    return copy

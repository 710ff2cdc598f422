"""A linear head on the features of a shared backbone: what logistic-head, ridge-head and anil have in common."""

from __future__ import annotations

from typing import ClassVar, Self

import torch
from torch import Tensor

from metafluence.errors import InputError
from metafluence.learners.network_learner import NetworkLearner
from metafluence.networks import Layer, LayeredLoss
from metafluence.tasks import Batch, TaskSet


class FeatureLearner(NetworkLearner):
    """A backbone that gives features [n, d], under something that adapts."""

    classifies: ClassVar[bool] = False

    @property
    def encodes(self) -> bool:
        return True

    def bind(self, tasks: TaskSet) -> Self:
        bound = super().bind(tasks)
        shape = bound.binding.output_shape
        if len(shape) != 1:
            raise InputError(
                f"The backbone gives features of shape {list(shape)} per instance; "
                f"{type(self).__name__} needs a vector. End the module with nn.Flatten()."
            )
        return bound

    @property
    def width(self) -> int:
        """d, the number of features."""
        return self.binding.output_shape[0]


class LinearHead(FeatureLearner):
    """Adapted: a head [C, d + 1] (bias last), flattened."""

    @property
    def adapted_size(self) -> int:
        return (self.ways or 0) * (self.width + 1)

    def adapted_positions(self) -> dict[str, Tensor]:
        """By name, where the head's parameters lie among the adapted ones."""
        head = torch.arange(self.adapted_size).reshape(-1, self.width + 1)
        return {"head.weight": head[:, :-1], "head.bias": head[:, -1]}

    def predict(self, rows: Tensor, adapted: Tensor, inputs: Tensor) -> Tensor:
        return self.outputs(adapted, inputs)

    def outputs(self, adapted: Tensor, inputs: Tensor) -> Tensor:
        """The head's own outputs [n, m, C] for features [n, m, d]."""
        head = adapted.unflatten(-1, (self.ways or 0, -1))
        return inputs @ head[..., :-1].mT + head[..., -1].unsqueeze(-2)

    def head_layer(self, adapted: Tensor, support: Batch, weights: Tensor, shift: float) -> LayeredLoss:
        """The head as one layer on the features, under Σ_j weights_j/n loss_j + shift/2 ‖head‖²."""
        inputs = support.inputs.detach()
        outputs = self.outputs(adapted.detach(), inputs)
        z = with_one(inputs).unsqueeze(2)
        head = Layer("head", torch.arange(self.adapted_size).reshape(self.ways or 0, -1), z)
        scaled = weights / weights.shape[-1]
        parts = (outputs, support.targets, scaled, self.output_loss, shift, (head,))
        return LayeredLoss(*parts, pull=lambda cotangents: [cotangents.unsqueeze(2)])


def with_one(features: Tensor) -> Tensor:
    """Features with a one appended, for the bias."""
    return torch.cat([features, features.new_ones(*features.shape[:-1], 1)], dim=-1)

"""One network for all tasks, without adaptation: the single-level problem that other libraries treat."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from metafluence import (
    Adaptation,
    Backbone,
    Batch,
    NetworkLearner,
    OutputLoss,
    SoftmaxLoss,
    cross_entropy,
    weighted_mean,
)


@dataclass(frozen=True, eq=False)
class Joint(NetworkLearner):
    """Adaptation is the identity: no parameter adapts (Q = 0), and support instances have no effect.

    Everything then reduces to the influence functions of plain supervised learning over all query instances.
    """

    backbone: Backbone | nn.Module
    ways: int | None = None

    encodes: ClassVar[bool] = True
    output_loss: ClassVar[OutputLoss | None] = SoftmaxLoss()

    @property
    def adapted_size(self) -> int:
        return 0

    def adapt(self, rows: Tensor, support: Batch, weights: Tensor, init: Tensor | None) -> Adaptation:
        nothing = rows[:, :0]
        return Adaptation(nothing, nothing.sum(dim=1), nothing.sum(dim=1) == 0, 0)

    def predict(self, rows: Tensor, adapted: Tensor, inputs: Tensor) -> Tensor:
        return inputs

    def inner_loss(self, rows: Tensor, adapted: Tensor, support: Batch, weights: Tensor) -> Tensor:
        return adapted.sum(dim=1)

    def outer_loss(self, rows: Tensor, adapted: Tensor, query: Batch, weights: Tensor) -> Tensor:
        return weighted_mean(cross_entropy(query.inputs, query.targets), weights)

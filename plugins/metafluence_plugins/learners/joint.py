"""One network for all tasks, without adaptation: the single-level problem that other libraries treat."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from metafluence import Adaptation, Backbone, Batch, NetworkLearner, Ways


@dataclass(frozen=True, eq=False)
class Joint(NetworkLearner):
    """Adaptation is the identity: no parameter adapts (Q = 0), and support instances have no effect.

    Everything then reduces to the influence functions of plain supervised learning over all query instances.
    """

    backbone: Backbone | nn.Module
    ways: Ways | None = None

    @property
    def encodes(self) -> bool:
        return True

    @property
    def adapted_size(self) -> int:
        return 0

    def adapt(self, rows: Tensor, support: Batch, weights: Tensor, init: Tensor | None) -> Adaptation:
        nothing = rows[:, :0]
        return Adaptation(nothing, nothing.sum(dim=1), nothing.sum(dim=1) == 0, 0)

    def predict(self, rows: Tensor, adapted: Tensor, inputs: Tensor) -> Tensor:
        return inputs

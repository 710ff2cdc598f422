"""One network for all tasks, without adaptation: the single-level problem that other libraries treat."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from metafluence import Adaptation, Backbone, Batch, NetworkLearner, OneHotLoss, OutputLoss, Ways


@dataclass(frozen=True, eq=False)
class Joint(NetworkLearner):
    """Adaptation is the identity: no parameter adapts (Q = 0), and support instances have no effect.

    Everything then reduces to the influence functions of plain supervised learning over all query instances.

    loss: of classes, `softmax` (cross-entropy) or `squared` (½ squared error to a one in the place of the class): ridge
    regression where the network is one linear map. Real targets have squared error.
    """

    backbone: Backbone | nn.Module
    ways: Ways | None = None
    loss: Literal["softmax", "squared"] = "softmax"

    @property
    def output_loss(self) -> OutputLoss:
        found = super().output_loss
        return OneHotLoss() if self.loss == "squared" and found.of_classes else found

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

"""Implicit MAML: the whole network adapts, held near the meta-parameters (Rajeswaran et al. 2019)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from metafluence import (
    Adaptation,
    Backbone,
    Batch,
    Count,
    ImplicitLearner,
    LayeredLoss,
    NetworkLearner,
    Optimiser,
    Positive,
    Ways,
    layered_loss,
    minimise_inner,
    weighted_mean,
)
from metafluence_plugins.learners.joint import Joint


@dataclass(frozen=True, eq=False)
class IMAML(NetworkLearner, ImplicitLearner):
    """Meta-parameters and adapted ones are both the whole network.

    inner_loss = mean loss over the support + proximal/2 ‖θ − λ‖². optimiser: `newton` (dense Hessians),
    `lbfgs`, `gradient` (steepest descent), or `auto`, which is newton up to 400 parameters and lbfgs above.
    tolerance: on the inner gradient's norm; None for what the optimiser can reach in this precision.
    """

    backbone: Backbone | nn.Module
    proximal: Positive = 1.0
    optimiser: Optimiser = "auto"
    max_iterations: Count = 500
    tolerance: Positive | None = None
    ways: Ways | None = None

    @property
    def layered(self) -> bool:
        return True

    @property
    def shares_space(self) -> bool:
        return True

    @property
    def adapted_size(self) -> int:
        return self.network.size

    def predict(self, rows: Tensor, adapted: Tensor, inputs: Tensor) -> Tensor:
        return self.network.stacked(adapted, inputs)

    def inner_loss(self, rows: Tensor, adapted: Tensor, support: Batch, weights: Tensor) -> Tensor:
        losses = self.output_loss.values(self.predict(rows, adapted, support.inputs), support.targets)
        return weighted_mean(losses, weights) + self.proximal / 2 * (adapted - rows).square().sum(dim=-1)

    def inner_layers(self, rows: Tensor, adapted: Tensor, support: Batch, weights: Tensor) -> LayeredLoss:
        scaled = weights / weights.shape[-1]
        parts = (support.inputs, support.targets, scaled, self.output_loss, self.proximal)
        return layered_loss(self.network, adapted, *parts)

    def unadapted(self) -> Joint:
        """The network at the meta-parameters themselves."""
        return Joint(self.backbone, self.ways)

    def adapt(self, rows: Tensor, support: Batch, weights: Tensor, init: Tensor | None) -> Adaptation:
        how = (self.optimiser, self.max_iterations, self.tolerance)
        return minimise_inner(self, rows, support, weights, init, *how)

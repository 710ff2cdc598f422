"""MAML (Finn et al. 2017): the whole network adapts by a few steps from the meta-parameters."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from metafluence import (
    Backbone,
    Batch,
    Count,
    InnerRule,
    InputError,
    Positive,
    StepLearner,
    Ways,
    descend,
    weighted_mean,
)
from metafluence_plugins.learners.joint import Joint


@dataclass(frozen=True, eq=False)
class MAML(StepLearner):
    """θ: the network after `steps` steps of `rule` on the mean support loss, from λ; derivatives go through the steps.

    rate: of all steps. learn_rates: one learned rate per layer (Li et al. 2017, Meta-SGD, has one per parameter), as
    ln(rate / its start) behind the network's parameters in λ. first_order: derivatives do not go through the inner
    gradients (FOMAML). That is no derivative of an objective: influence at its fixed points is an approximation, and
    reports say so.
    """

    backbone: Backbone | nn.Module
    steps: Count = 5
    rate: Positive = 0.1
    rule: InnerRule = "sgd"
    learn_rates: bool = False
    first_order: bool = False
    ways: Ways | None = None

    @property
    def shares_space(self) -> bool:
        return not self.learn_rates

    @property
    def adapted_size(self) -> int:
        return self.network.size

    @property
    def extra_size(self) -> int:
        return len(self.network.layer_sizes) if self.learn_rates else 0

    def extra_positions(self) -> dict[str, Tensor]:
        return {"log_rates": torch.arange(self.extra_size)} if self.learn_rates else {}

    def predict(self, rows: Tensor, adapted: Tensor, inputs: Tensor) -> Tensor:
        return self.network.stacked(adapted, inputs)

    def unroll(self, rows: Tensor, support: Batch, weights: Tensor, track: bool) -> Tensor:
        def loss(adapted: Tensor) -> Tensor:
            outputs = self.predict(rows, adapted, support.inputs)
            return weighted_mean(self.output_loss.values(outputs, support.targets), weights)

        size = self.network.size
        rate: Tensor | float = self.rate
        if self.learn_rates:
            sizes = torch.tensor(self.network.layer_sizes, device=rows.device)
            rate = self.rate * rows[:, size:].exp().repeat_interleave(sizes, dim=1)
        return descend(loss, rows[:, :size], self.rule, rate, self.steps, track, self.first_order)

    def unadapted(self) -> Joint:
        """The network at the meta-parameters themselves."""
        if self.learn_rates:
            raise InputError(
                "With learn_rates, maml's meta-parameters are more than a network's, so there is no model without "
                "adaptation on them; use a method that knows of it."
            )
        return Joint(self.backbone, self.ways)

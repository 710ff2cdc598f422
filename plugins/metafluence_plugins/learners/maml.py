"""MAML (Finn et al. 2017): the whole network adapts by a few steps from the meta-parameters."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from metafluence import (
    Backbone,
    Batch,
    Count,
    InnerRule,
    InputError,
    LearnedRates,
    Positive,
    RateScale,
    StepLearner,
    Ways,
    descend,
    weighted_mean,
)
from metafluence_plugins.learners.joint import Joint


@dataclass(frozen=True, eq=False)
class MAML(StepLearner):
    """θ: the network after `steps` steps of `rule` on the mean support loss, from λ; derivatives go through the steps.

    rate: of all steps. learn_rates: what has a learned rate of its own, behind the network's parameters in λ: all
    together (`one`), each `layer`, each `tensor` (as in MAML++), or each `entry` (Meta-SGD); rates_by_step: and each
    step. rates_as: what λ has, the `log` of the rate over its start, or the `rate` itself. first_order: derivatives do
    not go through the inner gradients (FOMAML). That is no derivative of an objective: influence at its fixed points is
    an approximation, and reports say so.
    """

    backbone: Backbone | nn.Module
    steps: Count = 5
    rate: Positive = 0.1
    rule: InnerRule = "sgd"
    learn_rates: LearnedRates = "none"
    rates_by_step: bool = False
    rates_as: RateScale = "log"
    first_order: bool = False
    ways: Ways | None = None

    @property
    def shares_space(self) -> bool:
        return self.learn_rates == "none"

    @property
    def adapted_size(self) -> int:
        return self.network.size

    @property
    def extra_size(self) -> int:
        return self.rates_size

    def extra_positions(self) -> dict[str, Tensor]:
        return self.rate_positions()

    def adapted_positions(self) -> dict[str, Tensor]:
        return self.network.positions()

    def predict(self, rows: Tensor, adapted: Tensor, inputs: Tensor) -> Tensor:
        return self.network.stacked(adapted, inputs)

    def unroll(self, rows: Tensor, support: Batch, weights: Tensor, track: bool) -> Tensor:
        def loss(adapted: Tensor) -> Tensor:
            outputs = self.predict(rows, adapted, support.inputs)
            return weighted_mean(self.output_loss.values(outputs, support.targets), weights)

        start, rate = rows[:, : self.network.size], self.rate_of(rows)
        return descend(loss, start, self.rule, rate, self.steps, track, self.first_order)

    def unadapted(self) -> Joint:
        """The network at the meta-parameters themselves."""
        if self.learn_rates != "none":
            raise InputError(
                "With learn_rates, maml's meta-parameters are more than a network's, so there is no model without "
                "adaptation on them; use a method that knows of it."
            )
        return Joint(self.backbone, self.ways)

"""ANIL (Raghu et al. 2020): only the head adapts, by a few steps from a learned start."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from metafluence import (
    Backbone,
    Batch,
    Count,
    InnerRule,
    LearnedRates,
    LinearHead,
    Positive,
    RateScale,
    StepLearner,
    Ways,
    descend,
    weighted_mean,
)


@dataclass(frozen=True, eq=False)
class ANIL(StepLearner, LinearHead):
    """Meta-parameters: the backbone, then the head's start [C, d + 1], then learned rates.

    Adapted: the head, by `steps` steps of `rule` on the mean support loss over the backbone's features; derivatives go
    through the steps. learn_rates, rates_by_step, rates_as: as of maml; the head is one layer. first_order: not through
    the inner gradients, which is no derivative of an objective (see maml).
    together: batch norm takes a task's support and query together, as in learn2learn's example; else each alone.
    """

    backbone: Backbone | nn.Module
    steps: Count = 5
    rate: Positive = 0.1
    rule: InnerRule = "sgd"
    learn_rates: LearnedRates = "none"
    rates_by_step: bool = False
    rates_as: RateScale = "log"
    first_order: bool = False
    together: bool = False
    ways: Ways | None = None

    @property
    def encodes_together(self) -> bool:
        return self.together

    @property
    def extra_size(self) -> int:
        return self.adapted_size + self.rates_size

    def extra_positions(self) -> dict[str, Tensor]:
        return {**self.adapted_positions(), **self.rate_positions(self.adapted_size)}

    def initial_extra(self, network: Tensor, generator: torch.Generator | None) -> Tensor:
        """The head as nn.Linear draws it; zero where there is no generator. Learned rates start as given."""
        start = super().initial_extra(network, generator)
        if generator is not None:
            drawn = torch.rand(self.adapted_size, generator=generator, device=generator.device, dtype=network.dtype)
            start[: self.adapted_size] = ((2 * drawn - 1) / self.width**0.5).to(network.device)
        return start

    def unroll(self, rows: Tensor, support: Batch, weights: Tensor, track: bool) -> Tensor:
        def loss(adapted: Tensor) -> Tensor:
            outputs = self.outputs(adapted, support.inputs)
            return weighted_mean(self.output_loss.values(outputs, support.targets), weights)

        start, rate = rows[:, : self.adapted_size], self.rate_of(rows)
        return descend(loss, start, self.rule, rate, self.steps, track, self.first_order)

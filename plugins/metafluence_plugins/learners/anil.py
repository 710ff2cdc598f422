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
    LinearHead,
    Positive,
    StepLearner,
    Ways,
    descend,
    weighted_mean,
)


@dataclass(frozen=True, eq=False)
class ANIL(StepLearner, LinearHead):
    """Meta-parameters: the backbone, then the head's start [C, d + 1] and, with learn_rate, ln(rate / its start).

    Adapted: the head, by `steps` steps of `rule` on the mean support loss over the backbone's features; derivatives go
    through the steps. first_order: not through the inner gradients, which is no derivative of an objective (see maml).
    together: batch norm takes a task's support and query together, as in learn2learn's example; else each alone.
    """

    backbone: Backbone | nn.Module
    steps: Count = 5
    rate: Positive = 0.1
    rule: InnerRule = "sgd"
    learn_rate: bool = False
    first_order: bool = False
    together: bool = False
    ways: Ways | None = None

    @property
    def encodes_together(self) -> bool:
        return self.together

    @property
    def extra_size(self) -> int:
        return self.adapted_size + self.learn_rate

    def extra_positions(self) -> dict[str, Tensor]:
        head = torch.arange(self.adapted_size).reshape(-1, self.width + 1)
        rate = {"log_rate": torch.tensor(self.adapted_size)} if self.learn_rate else {}
        return {"head.weight": head[:, :-1], "head.bias": head[:, -1], **rate}

    def initial_extra(self, network: Tensor, generator: torch.Generator | None) -> Tensor:
        """As nn.Linear draws it; zero where there is no generator. The learned rate starts as given."""
        start = network.new_zeros(self.extra_size)
        if generator is not None:
            drawn = torch.rand(self.adapted_size, generator=generator, device=generator.device, dtype=network.dtype)
            start[: self.adapted_size] = ((2 * drawn - 1) / self.width**0.5).to(network.device)
        return start

    def unroll(self, rows: Tensor, support: Batch, weights: Tensor, track: bool) -> Tensor:
        def loss(adapted: Tensor) -> Tensor:
            outputs = self.outputs(adapted, support.inputs)
            return weighted_mean(self.output_loss.values(outputs, support.targets), weights)

        size = self.adapted_size
        rate = self.rate * rows[:, size:].exp() if self.learn_rate else self.rate
        return descend(loss, rows[:, :size], self.rule, rate, self.steps, track, self.first_order)

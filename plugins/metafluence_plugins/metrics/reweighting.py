"""What the test tasks lose or gain where items of higher score weigh more."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from scipy.stats import rankdata
from torch import Tensor

from metafluence import (
    Count,
    Evaluation,
    InputError,
    Level,
    Measured,
    Metric,
    Number,
    Scores,
    Share,
    Targets,
    reweighted,
)
from metafluence_plugins.metrics.beside_random import beside_random, numbers_beside


@dataclass(frozen=True)
class Reweighting(Metric):
    """The test tasks after training with weights that grow evenly with the rank of an item's score, from 1 - `step` to
    1 + `step` times what they were, beside `draws` random orders, which are the same for all methods.

    All methods give the same weights, to other items. change: of the mean test loss against the weights as they were
    (nats); below zero is better. gain: by how much lower the loss is than the mean over the random orders; above zero
    is better. beaten: the share of the random orders with a higher loss; .5 is chance.
    """

    step: Share = 0.9
    draws: Count = 19

    needs = ("truth",)

    def numbers(self) -> tuple[Number, ...]:
        return numbers_beside("training with weights in random orders")

    def measure(self, run: Measured) -> Mapping[str, float]:
        if bool((run.scores == run.scores[0]).all()):
            raise InputError("All scores are the same, so that no item is to weigh more. Choose another method.")
        own = torch.from_numpy(rankdata(run.scores.numpy())) - 1
        generator = run.evaluation.generator()
        orders = [own, *(torch.randperm(len(own), generator=generator).double() for _ in range(self.draws))]
        found = torch.stack([self._changes(one, run.level, orders) for one in run.evaluation.runs]).mean(dim=0)
        return beside_random(float(found[0]), found[1:])

    def _changes(self, one: Evaluation, level: Level, orders: list[Tensor]) -> Tensor:
        """The change of the mean test loss under the weights of each order of the items [items], [orders]."""
        tests = Targets(one.problem, one.test_tasks, one.meta)
        context, found = one.context(), []
        for order in orders:
            ranks = 2 * order / (len(order) - 1) - 1  # the lowest -1, the highest 1
            scores = Scores(ranks.to(one.meta).unsqueeze(1), level, "rank_only")
            found.append(reweighted(context, tests, scores, self.step).true[0].cpu())
        return torch.stack(found)

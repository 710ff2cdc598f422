"""What the test tasks lose or gain where the items of highest score alone are kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch

from metafluence import Count, InputError, Measured, Metric, Number, Share, Targets, selected
from metafluence_plugins.metrics.beside_random import beside_random, numbers_beside


@dataclass(frozen=True)
class Kept(Metric):
    """The test tasks after training with the share `share` of the items, those of highest score, beside `draws` random
    sets of the same size, which are the same for all methods.

    change: of the mean test loss against all items (nats); below zero is better. gain: by how much lower the loss is
    than the mean over the random sets; above zero is better. beaten: the share of the random sets with a higher loss;
    .5 is chance.
    """

    share: Share = 0.5
    draws: Count = 19

    def numbers(self) -> tuple[Number, ...]:
        return numbers_beside("training with random sets of that size")

    def measure(self, run: Measured) -> Mapping[str, float]:
        if run.evaluation.seen is not None:
            raise InputError("The run saw some of the items alone, and a budget is of all. Leave it out of this study.")
        keep = min(max(1, round(self.share * len(run.scores))), len(run.scores) - 1)
        changes, random = [], []
        for one in run.evaluation.runs:
            context = replace(one.context(), generator=run.evaluation.generator())
            tests = Targets(one.problem, one.test_tasks, one.meta)
            found = selected(context, tests, {"": run.scores}, keep, self.draws)
            changes.append(found.change[""])
            random.append(found.random)
        return beside_random(sum(changes) / len(changes), torch.stack(random).mean(dim=0))

"""Keeping the best items under a budget, by score, against as many random ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from metafluence.attribution import Context, Targets
from metafluence.errors import InputError
from metafluence.evaluation.extremes import DRAWS, losses_without, lowest
from metafluence.evaluation.metrics import Interval
from metafluence.evaluation.statistics import mean_interval
from metafluence.tasks import Removal


@dataclass(frozen=True)
class Selection:
    """removed: by who chose, the items that were left out. change: the change of the mean target's loss without them.

    random [draws]: the same without random sets of the same size. Nats; NaN where a fit failed.
    """

    removed: dict[str, Removal]
    change: dict[str, float]
    random: Tensor

    @property
    def by_chance(self) -> Interval:
        """The mean over random sets with its 95 % interval."""
        return mean_interval(self.random.numpy())

    def beats_random(self, name: str) -> bool:
        """The loss is lower than without any random set, which happens by chance once in `draws` + 1 times."""
        known = self.random[self.random.isfinite()]
        return bool(len(known)) and self.change[name] < float(known.min())


def selected(
    context: Context, targets: Targets, scores: Mapping[str, Tensor], keep: int, draws: int = DRAWS
) -> Selection:
    """Leave out all but the `keep` items of highest score, and fit again, or replay where the bank does.

    Args:
        context: with a bank; its generator draws the random sets.
        targets: whose mean loss is compared; scores tell more of the targets that they were made for than of others.
        scores: of all items [items], by who made them; set `loss` beside the others.
        keep: how many items are kept, at least one and not all.
        draws: how many random sets are left out; 19 make the best of all sets one of 5 % by chance.

    Raises:
        InputError: there is no bank, the scores are of other items, or `keep` or `draws` is out of bounds.
    """
    items = context.items
    if context.bank is None or context.candidates is not None:
        raise InputError("A selection is fitted again. Give a context with a bank and without candidates.")
    if not 1 <= keep < items or draws < 1:
        raise InputError(f"{keep} of {items} items are to be kept, beside {draws} random sets. Keep 1 to {items - 1}.")
    wrong = next((name for name, values in scores.items() if values.shape != (items,)), None)
    if wrong is not None:
        raise InputError(f"The scores {wrong!r} are {list(scores[wrong].shape)}. Give one for each of {items} items.")
    count, random = items - keep, context.generator
    removed = {name: lowest(values.cpu(), count) for name, values in scores.items()}
    drawn = [tuple(sorted(torch.randperm(items, generator=random)[:count].tolist())) for _ in range(draws)]
    found = losses_without(context.bank, [*removed.values(), *drawn], context.level, targets).mean(dim=1)
    change = dict(zip(removed, found.tolist(), strict=False))
    return Selection(removed, change, found[len(removed) :])

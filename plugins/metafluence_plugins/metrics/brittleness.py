"""How few removals change what the model answers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import inf
from statistics import median

import torch

from metafluence import Count, Measured, Metric, Number, Share


@dataclass(frozen=True)
class Brittleness(Metric):
    """The fewest removals, most helpful for a target first, after which a prediction of it is wrong that was right.

    Tried for the first `targets` targets with 1, 2, 4, ... items, to a share `most` of all, so that it is an upper
    bound, at most twice too large. removals: their median over the targets that flip. flipped: the share of the targets
    that do. Every try is an exact retraining, or a replay; fewer removals and more flips are better.
    """

    targets: Count = 4
    most: Share = 0.5

    needs = ("truth", "classes")

    def numbers(self) -> tuple[Number, ...]:
        few = "Median of the fewest removals that flip a right prediction, over the targets that flip."
        return (
            Number("flipped", meaning="Share of targets that flip.", better="high", bounds=(0.0, 1.0)),
            Number("removals", meaning=few, better="low", bounds=(1.0, inf)),
        )

    def measure(self, run: Measured) -> Mapping[str, float]:
        before = run.right()
        assert before is not None
        asked = [j for j in range(min(self.targets, len(before))) if bool(before[j].any())]
        order = run.target_scores.argsort(dim=0, descending=True, stable=True)
        flips: list[int] = []
        for j in asked:
            for size in sizes(len(order), self.most):
                after = run.right(tuple(sorted(order[:size, j].tolist())))
                if after is not None and flipped(before[j], after[j]):
                    flips.append(size)
                    break
        if not asked:
            return {}
        found = {"flipped": len(flips) / len(asked)}
        return {**found, "removals": float(median(flips))} if flips else found


def sizes(items: int, most: float) -> Iterator[int]:
    """1, 2, 4, ... to the share `most` of the items, which is the last one."""
    last = max(1, int(most * items))
    size = 1
    while size < last:
        yield size
        size *= 2
    yield last


def flipped(before: torch.Tensor, after: torch.Tensor) -> bool:
    """Whether an instance [n] that was right is wrong afterwards."""
    return bool((before & ~after).any())

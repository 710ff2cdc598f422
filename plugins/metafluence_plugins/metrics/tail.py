"""What removing the items of lowest score does to the test tasks that are answered worst."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import inf

import torch
from torch import Tensor

from metafluence import Measured, Metric, Number, Share


@dataclass(frozen=True)
class Tail(Metric):
    """The worst test tasks after retraining without the items of lowest score, as many as the study removes.

    cvar: the mean loss (nats) of the share `share` of test tasks with the largest losses (conditional value at risk).
    worst: the largest loss. cvar change, worst change: less the same with all items; below zero is better.
    """

    share: Share = 0.2

    needs = ("truth",)

    def numbers(self) -> tuple[Number, ...]:
        worst = f"mean loss of the {100 * self.share:g} % of test tasks with the largest losses"
        names = {"cvar": f"The {worst}", "worst": "The largest loss of a test task"}
        after = "after {short} without the items of lowest score"
        return (
            *(Number(n, "", f"{what} {after}.", "nats", better="low", bounds=(0.0, inf)) for n, what in names.items()),
            *(
                Number(f"{n} change", "", f"{what} {after}, less the same with all items.", "nats", better="low")
                for n, what in names.items()
            ),
        )

    def measure(self, run: Measured) -> Mapping[str, float]:
        lowest = run.scores.argsort(stable=True)[: run.evaluation.remove[0]].tolist()
        before, after = run.test_losses(), run.test_losses(tuple(sorted(lowest)))
        found = {"cvar": cvar(after, self.share), "worst": float(after.max())}
        found["cvar change"] = found["cvar"] - cvar(before, self.share)
        found["worst change"] = found["worst"] - float(before.max())
        return found


def cvar(losses: Tensor, share: float) -> float:
    """The mean of the largest `share` of losses [n]; a loss that is partly in it counts in part (Rockafellar 2000)."""
    ordered = losses.double().sort(descending=True).values
    count = share * len(ordered)
    weights = (count - torch.arange(len(ordered))).clamp(min=0, max=1).to(ordered)
    return float(weights @ ordered / weights.sum()) if count else float(ordered[0])

"""How far two methods agree on the items that matter."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from metafluence import InputError, Measured, Metric, Number, Share


@dataclass(frozen=True)
class TopOverlap(Metric):
    """The share of the items of lowest and of highest score that a run has in common with another one.

    share: of all items, at each end. other: that run, as the table calls it ("task-if (exact)" of a method with a
    solver); the mean over all others if not given. lowest, highest: the share in common; chance is `share`.
    """

    share: Share = 0.1
    other: str | None = None

    compares = True

    def numbers(self) -> tuple[Number, ...]:
        about = f"Share of the {100 * self.share:g} %% of %s score in common with {self.other or 'the other methods'}."
        return tuple(Number(end, meaning=about % end, bounds=(0.0, 1.0)) for end in ("lowest", "highest"))

    def measure(self, run: Measured) -> Mapping[str, float]:
        if self.other == run.name:
            return {}
        if self.other is not None and self.other not in run.peers:
            known = ", ".join(run.peers) or "none"
            raise InputError(f"There is no run {self.other!r} to compare with. Name one of these: {known}.")
        others = list(run.peers.values()) if self.other is None else [run.peers[self.other]]
        if not others:
            return {}
        count = max(1, round(self.share * len(run.scores)))
        low, high = ([overlap(sign * run.scores, sign * one, count) for one in others] for sign in (1, -1))
        return {"lowest": sum(low) / len(low), "highest": sum(high) / len(high)}


def overlap(first: Tensor, second: Tensor, count: int) -> float:
    """The share that the `count` lowest of two [items] have in common."""
    chosen = [set(scores.argsort(stable=True)[:count].tolist()) for scores in (first, second)]
    return len(chosen[0] & chosen[1]) / count

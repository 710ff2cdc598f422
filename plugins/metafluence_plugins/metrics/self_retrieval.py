"""Whether a training task that is shown as a target is found again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from metafluence import Count, InputError, Measured, Metric, Number


@dataclass(frozen=True)
class SelfRetrieval(Metric):
    """A training task as the target must itself have the highest score (TLXML's task distinction).

    For the first `tasks` training tasks that are not corrupted. recall@k: the share of them that are among the `k` of
    highest score for themselves. mrr: the mean of 1 / rank. Ties count as half a rank each, so that constant scores
    have no advantage.
    """

    tasks: Count = 20
    k: Count = 1

    def numbers(self) -> tuple[Number, ...]:
        among = f"Share of training tasks that are among the {self.k} of highest score for themselves."
        return (
            Number(f"recall@{self.k}", meaning=among, better="high", bounds=(0.0, 1.0)),
            Number("mrr", meaning="Mean of 1 / rank of a task for itself.", better="high", bounds=(0.0, 1.0)),
        )

    def measure(self, run: Measured) -> Mapping[str, float]:
        if run.level != "task":
            raise InputError(
                f"It shows tasks as targets, and these items are of level {run.level}. Leave it out, or give the study "
                "level task."
            )
        train = run.evaluation.problem.tasks
        clean = (~train.corrupted_items("task")).nonzero().squeeze(1)[: self.tasks]
        if not len(clean):
            return {}
        own = ranks(run.scores_for(train[clean.to(train.query.inputs.device)]), clean.cpu())
        return {f"recall@{self.k}": float((own <= self.k).double().mean()), "mrr": float((1 / own).mean())}


def ranks(scores: Tensor, items: Tensor) -> Tensor:
    """The rank [T], from 1, of item `items[j]` among scores[:, j], highest first; ties at their middle."""
    own = scores.gather(0, items.unsqueeze(0))
    higher, same = (scores > own).sum(dim=0), (scores == own).sum(dim=0)
    return 1 + higher.double() + (same - 1).double() / 2

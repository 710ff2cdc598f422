"""The candidates of a study: tasks that were not trained on, scored by every method that can, against exact fits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from metafluence.attribution import attribute
from metafluence.errors import MetafluenceError
from metafluence.evaluation import Evaluation, Interval, Plan, added, rank_agreement
from metafluence.runtime import Shelf
from metafluence.studies.preparation import Preparation, Prepared
from metafluence.tasks import Level, Removal, TaskSet


@dataclass(frozen=True)
class CandidateScores:
    """scores: of all items of the candidates, [items], by method. refused: why other methods gave none.

    true: by item, the mean target's loss without it minus that with it, in nats. complaint: about fits that failed.
    """

    tasks: TaskSet
    level: Level
    scores: dict[str, Tensor]
    refused: dict[str, str]
    true: dict[int, float]
    complaint: str = ""

    def agreement(self, name: str) -> Interval:
        """Spearman of a method's scores with the exact fits; NaN for fewer than three of them."""
        true = torch.tensor(list(self.true.values()), dtype=torch.float64)
        return rank_agreement(self.scores[name][list(self.true)].double().numpy(), true.numpy())


def add_candidates(preparation: Preparation, ready: Prepared, plans: Sequence[Plan]) -> dict[Level, CandidateScores]:
    """By level, what a study asks of candidates; empty where it asks nothing."""
    config = preparation.config
    if config.candidates is None:
        return {}
    tasks, found = preparation.tasks.candidates(ready.split), {}
    for level, evaluation in ready.evaluations.items():
        singles = [] if config.truth is None else preparation.removals(level, tasks.items(level))[0]
        found[level] = score_candidates(evaluation, tasks, plans, singles, preparation.shelf)
    return found


def score_candidates(
    evaluation: Evaluation, tasks: TaskSet, plans: Sequence[Plan], singles: Sequence[Removal], shelf: Shelf
) -> CandidateScores:
    """Score candidates at the evaluation's level, and fit exactly with the single items in `singles`.

    Each part is kept on the shelf. A method that refuses or fails has its reason.
    """
    context, targets = evaluation.context().adding(tasks), evaluation.targets()
    mark = f"{evaluation.level}-{tasks.fingerprint()}-{len(evaluation.validation)}"
    scores: dict[str, Tensor] = {}
    refused: dict[str, str] = {}
    for plan in plans:
        if plan.level != evaluation.level or plan.method.retrains:  # what is exact is the truth, below
            continue
        title, name = f"{plan.label} {plan.solver}".strip(), f"candidates/{plan.id}-{mark}"
        stored = shelf.find(name)
        try:
            found = stored[0]["scores"] if stored else attribute(plan.method, context, targets).values[:, 0].cpu()
        except MetafluenceError as error:
            refused[title] = str(error)
            continue
        if stored is None:
            shelf.keep(name, {"scores": found.clone()}, {})
        scores[title] = found
    true, complaint = {}, ""
    if singles:
        name = f"candidates/truth-{mark}-{len(singles)}"
        kept = shelf.find(name)
        if kept is None:
            fits = added(context, singles)
            kept = {"change": fits.loss_change(targets)[:, 0].cpu()}, {"complaint": fits.complaint}
            shelf.keep(name, *kept)
        change, complaint = kept[0]["change"], str(kept[1]["complaint"])
        true = {one[0]: float(value) for one, value in zip(singles, change, strict=True) if value.isfinite()}
    return CandidateScores(tasks, evaluation.level, scores, refused, true, complaint)

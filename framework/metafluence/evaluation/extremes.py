"""What the targets' losses do without the items of highest and of lowest score, against random sets of the same size.

It is the question that a score answers when it is acted on (elsewhere called query loss difference): LDS judges the
order of random sets, this judges the two ends of the scores.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from metafluence.attribution import Targets
from metafluence.evaluation.evaluation import Evaluation
from metafluence.evaluation.ground_truth import shuffled
from metafluence.tasks import Level, Removal
from metafluence.training import RetrainBank

DRAWS = 19
"""Random sets of each size: one more set goes further than all of them by chance in 5 % of cases."""


def lowest(scores: Tensor, count: int, among: Tensor | None = None) -> Removal:
    """The items of lowest score: what a method has removed. among: the numbers of the items to choose from, or all."""
    return tuple(sorted(_ordered(scores, among)[:count].tolist()))


def ends(scores: Tensor, counts: Sequence[int], among: Tensor | None = None) -> list[Removal]:
    """The items of highest score, a set for each count, and then those of lowest score."""
    order = _ordered(scores, among).tolist()
    highest: list[Removal] = [tuple(sorted(order[-count:])) for count in counts]
    return highest + [lowest(scores, count, among) for count in counts]


def _ordered(scores: Tensor, among: Tensor | None) -> Tensor:
    """Numbers of items, lowest score first."""
    if among is None:
        return torch.argsort(scores, stable=True)
    return among[torch.argsort(scores[among], stable=True)]


def losses_without(bank: RetrainBank, removals: Sequence[Removal], level: Level, targets: Targets) -> Tensor:
    """The change of every target's loss without each removal, [removals, T]; NaN where a fit failed."""
    fits = bank.leave_out(removals, level, strict=False)
    before = targets.losses()
    nothing = torch.full_like(before, torch.nan)
    pairs = zip(fits.meta.T, fits.converged, strict=True)
    return torch.stack([targets.losses(meta) - before if good else nothing for meta, good in pairs]).cpu()


def changes_without(evaluation: Evaluation, removals: Sequence[Removal]) -> Tensor:
    """The change of every target's loss without each removal, in nats, [removals, targets]; of the truth's kind.

    The mean over runs where there are several; NaN where a model without these items could not be made.
    """
    by_run = []
    for one in evaluation.runs:
        assert one.bank is not None, "it is asked of the truth"
        targets = Targets(one.problem, one.validation, one.meta, mean=False)
        by_run.append(losses_without(one.bank, removals, evaluation.level, targets))
    return torch.stack(by_run).mean(dim=0)


def random_changes(evaluation: Evaluation, items: Tensor, generator: torch.Generator) -> Tensor:
    """The same without `DRAWS` random sets of each size, of the items of these numbers, [sizes, draws, targets]."""
    order = [shuffled(items, generator).tolist() for _ in range(DRAWS)]
    removals = [tuple(sorted(drawn[:count])) for count in evaluation.extremes for drawn in order]
    return changes_without(evaluation, removals).unflatten(0, (len(evaluation.extremes), DRAWS))

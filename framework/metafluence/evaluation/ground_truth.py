"""The ground truth of a study at one level: exact retraining without items, and how well it agrees with itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from metafluence.attribution import Targets
from metafluence.evaluation.metrics import rank_agreement, score_agreement
from metafluence.tasks import Level, Removal
from metafluence.training import RetrainBank

NAN = float("nan")


@dataclass(frozen=True)
class Ceiling:
    """How well the same retrainings from other seeds agree with the study's: what of the truth is the data's, not the
    seed's. An estimator made at the study's own fit may come closer to it than that.

    pearson, spearman: of the loss changes without single items; lds: Spearman of those without random subsets; each
    the mean over `seeds` other seeds, *_low and *_high its 95 % bootstrap interval.
    """

    seeds: int = 0
    pearson: float = NAN
    spearman: float = NAN
    spearman_low: float = NAN
    spearman_high: float = NAN
    lds: float = NAN
    lds_low: float = NAN
    lds_high: float = NAN

    @property
    def said(self) -> str:
        """In words; empty where there is none."""
        if np.isnan(self.spearman):
            return ""
        interval = f" ({self.spearman_low:.2f} to {self.spearman_high:.2f})"
        return f"retraining from other seeds agrees to {self.spearman:.3f}{interval}"


@dataclass(frozen=True)
class Truth:
    """Retraining without single items: the removals, Δλ [P, s], and the change of the target's loss [s]; tensors are on
    the processor, whatever the study's device.

    subsets: random removals, and subset_loss_change [m] of the target after them. seconds: of all the work but that
    of other seeds.
    """

    removals: tuple[Removal, ...]
    change: Tensor
    loss_change: Tensor
    seconds: float
    subsets: tuple[Removal, ...] = ()
    subset_loss_change: Tensor = torch.empty(0)
    ceiling: Ceiling = Ceiling()


def draw_removals(
    items: int, singles: int | Literal["all"], subsets: int, share: float, generator: torch.Generator
) -> tuple[list[Removal], list[Removal]]:
    """Which of `items` items are left out: `singles` of them one at a time, and `subsets` random subsets.

    share: of the items, that each subset holds.
    """
    count = items if singles == "all" else min(singles, items)
    alone = sorted(torch.randperm(items, generator=generator)[:count].tolist())
    size = min(max(1, round(share * items)), items - 1)
    together = [torch.randperm(items, generator=generator)[:size] for _ in range(subsets)]
    return [(i,) for i in alone], [tuple(sorted(s.tolist())) for s in together]


def retrain(
    singles: Sequence[Removal],
    subsets: Sequence[Removal],
    level: Level,
    bank: RetrainBank,
    targets: Targets,
    others: Sequence[tuple[RetrainBank, Targets]] = (),
) -> tuple[Truth | None, str]:
    """Retrain without each, and again from other seeds. Returns also what is to be said of those that failed.

    They are left out; fewer than two single items are no ground truth.
    """
    removals = [*singles, *subsets]
    found = bank.leave_out(removals, level, strict=False)
    again = [(other.leave_out(removals, level, strict=False), theirs) for other, theirs in others]
    good = torch.stack([one.converged for one in (found, *(other for other, _ in again))]).all(dim=0)
    complaint = found.complaint()
    if bool((~good & found.converged).any()):
        lost = int((~good & found.converged).sum())
        why = next(other.complaint() for other, _ in again if not bool(other.converged.all()))
        complaint = f"{complaint} Of the rest, {lost} failed from another seed: {why}".lstrip()
    kept = good.nonzero().squeeze(1)
    alone, together = kept < len(singles), kept >= len(singles)
    if int(alone.sum()) < 2:
        return None, complaint
    left_out = [removals[i] for i in kept]
    changes = loss_changes(targets, found.meta[:, kept])
    theirs = [loss_changes(t, other.meta[:, kept]) for other, t in again]
    count = int(alone.sum())
    truth = Truth(
        tuple(left_out[:count]),
        (found.meta[:, kept[alone]] - targets.point.meta.unsqueeze(1)).cpu(),
        changes[alone],
        found.cost(kept),
        tuple(left_out[count:]),
        changes[together],
        _ceiling(changes, theirs, alone, together),
    )
    return truth, complaint


def loss_changes(targets: Targets, metas: Tensor) -> Tensor:
    """The change [s] of the targets' mean loss from λ* to each column of [P, s], on the processor."""
    before = targets.losses().mean()
    return torch.stack([targets.losses(meta).mean() - before for meta in metas.T]).cpu()


def _ceiling(ours: Tensor, theirs: list[Tensor], alone: Tensor, together: Tensor) -> Ceiling:
    if not theirs:
        return Ceiling()
    others, true = torch.stack(theirs).numpy(), ours.numpy()
    pearson = [score_agreement(other[alone], true[alone]).pearson for other in others]
    single, subsets = (rank_agreement(others[:, some], true[some]) for some in (alone, together))
    return Ceiling(len(theirs), float(np.mean(pearson)), *astuple(single), *astuple(subsets))

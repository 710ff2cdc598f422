"""The ground truth of a study at one level: exact retraining without items, and how well it agrees with itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from metafluence.attribution import Targets
from metafluence.evaluation.metrics import rank_agreement, score_agreement
from metafluence.evaluation.split_halves import Reliability, reliability
from metafluence.evaluation.truth_kind import TruthKind
from metafluence.tasks import Level, Removal, count_of
from metafluence.training import RetrainBank

NAN = float("nan")
EXACT = TruthKind()


@dataclass(frozen=True, kw_only=True)
class Ceiling:
    """Agreement of the study's retrainings with the same ones from other seeds: how much of the truth is due to the
    data and not to the seed. An estimator at the study's own fit may agree better than that.
    """

    seeds: int = 0
    """How many other seeds; correlations are means over them."""
    pearson: float = NAN
    """Of the loss changes without single items."""
    spearman: float = NAN
    """Of the same."""
    spearman_low: float = NAN
    """Lower end of its 95 % bootstrap interval."""
    spearman_high: float = NAN
    """Upper end of its 95 % bootstrap interval."""
    lds: float = NAN
    """Spearman of the loss changes without random subsets."""
    lds_low: float = NAN
    """Lower end of its 95 % bootstrap interval."""
    lds_high: float = NAN
    """Upper end of its 95 % bootstrap interval."""

    @property
    def sentence(self) -> str:
        """In words; empty without other seeds."""
        if np.isnan(self.spearman):
            return ""
        interval = f" ({self.spearman_low:.2f} to {self.spearman_high:.2f})"
        return f"retraining from other seeds agrees to {self.spearman:.3f}{interval}"


@dataclass(frozen=True, kw_only=True)
class Truth:
    """Exact retraining without single items and without random subsets. Tensors are on the processor."""

    removals: tuple[Removal, ...]
    """The single items, s of them."""
    change: Tensor | None
    """Δλ after each removal, [P, s]; None where the truth is a mean over runs, which share no λ."""
    loss_change: Tensor
    """Change of the targets' mean loss after each, [s], in nats."""
    seconds: float
    """All retraining but that from other seeds."""
    subsets: tuple[Removal, ...] = ()
    """Random subsets, m of them."""
    subset_loss_change: Tensor = torch.empty(0)
    """Change of the targets' mean loss after each subset's removal, [m]."""
    ceiling: Ceiling = Ceiling()
    reliability: Reliability = Reliability()
    """Of `loss_change`, where it is a mean over runs."""
    subset_reliability: Reliability = Reliability()
    """The same of `subset_loss_change`."""
    kind: TruthKind = EXACT


def draw_removals(
    items: Tensor, singles: int | Literal["all"], subsets: int, share: float, generator: torch.Generator
) -> tuple[list[Removal], list[Removal]]:
    """Which of the items of these numbers are left out: `singles` one at a time, and `subsets` random subsets.

    share: of the items, that each subset holds.
    """
    count = len(items) if singles == "all" else min(singles, len(items))
    alone = sorted(shuffled(items, generator)[:count].tolist())
    return [(i,) for i in alone], draw_subsets(items, subsets, share, generator)


def draw_subsets(items: Tensor, count: int, share: float, generator: torch.Generator) -> list[Removal]:
    """`count` random subsets of the items of these numbers, each of a share of them."""
    size = count_of(share, len(items))
    return [tuple(sorted(shuffled(items, generator)[:size].tolist())) for _ in range(count)]


def shuffled(items: Tensor, generator: torch.Generator) -> Tensor:
    """The numbers in random order."""
    return items[torch.randperm(len(items), generator=generator)]


def retrain(
    singles: Sequence[Removal],
    subsets: Sequence[Removal],
    level: Level,
    bank: RetrainBank,
    targets: Targets,
    others: Sequence[tuple[RetrainBank, Targets]] = (),
    kind: TruthKind = EXACT,
) -> tuple[Truth | None, str]:
    """Retrain without each removal, and again from other seeds.

    Args:
        singles: items left out one at a time.
        subsets: items left out together.
        level: of the items.
        bank: exact retrainings about the study's λ*.
        targets: whose mean loss is compared.
        others: banks about fits from other seeds, and the same targets there.
        kind: of the truth. Where weights are lowered instead of taken away, changes are scaled so that they compare
            with predictions of a whole removal. A procedure's truth is the mean over `bank` and the others; else the
            others say how well the truth agrees.

    Returns:
        The ground truth of those that converged (None for fewer than two single items), and a sentence about those
        that did not.
    """
    removals, weight = [*singles, *subsets], kind.weight
    fits = bank.leave_out(removals, level, strict=False, weight=weight)
    again = [(other.leave_out(removals, level, strict=False, weight=weight), theirs) for other, theirs in others]
    good = torch.stack([one.converged for one in (fits, *(other for other, _ in again))]).all(dim=0)
    complaint = fits.complaint()
    if bool((~good & fits.converged).any()):
        lost = int((~good & fits.converged).sum())
        why = next(other.complaint() for other, _ in again if not bool(other.converged.all()))
        complaint = f"{complaint} Of the rest, {lost} failed from another seed: {why}".lstrip()
    kept = good.nonzero().squeeze(1)
    alone, together = kept < len(singles), kept >= len(singles)
    if int(alone.sum()) < 2:
        return None, complaint
    left_out = [removals[i] for i in kept]
    changes = loss_changes(targets, fits.meta[:, kept]) / (1 - weight)
    theirs = [loss_changes(t, other.meta[:, kept]) / (1 - weight) for other, t in again]
    count = int(alone.sum())
    truth = Truth(
        removals=tuple(left_out[:count]),
        change=(fits.meta[:, kept[alone]] - targets.point.meta.unsqueeze(1)).cpu() / (1 - weight),
        loss_change=changes[alone],
        seconds=fits.cost(kept),
        subsets=tuple(left_out[count:]),
        subset_loss_change=changes[together],
        kind=kind,
    )
    if kind.kind != "procedure":
        return replace(truth, ceiling=_ceiling(changes, theirs, alone, together)), complaint
    every = torch.stack([changes, *theirs])
    averaged = replace(
        truth,
        change=None,
        loss_change=every[:, alone].mean(dim=0),
        seconds=truth.seconds + sum(other.cost(kept) for other, _ in again),
        subset_loss_change=every[:, together].mean(dim=0),
        reliability=reliability(every[:, alone].numpy()),
        subset_reliability=reliability(every[:, together].numpy()),
    )
    return averaged, complaint


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
    return Ceiling(
        seeds=len(theirs),
        pearson=float(np.mean(pearson)),
        spearman=single.value,
        spearman_low=single.low,
        spearman_high=single.high,
        lds=subsets.value,
        lds_low=subsets.low,
        lds_high=subsets.high,
    )

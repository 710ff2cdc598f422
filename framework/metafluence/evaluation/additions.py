"""The ground truth of candidates: exact fits with tasks that were not trained on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from metafluence.attribution import Context, Targets
from metafluence.errors import InputError
from metafluence.tasks import Removal, Weights, check_removals
from metafluence.training import Retrained


@dataclass(frozen=True)
class Added:
    """What having items of candidates does; with_items, without_items: the exact fits of each set of items."""

    with_items: Retrained
    without_items: Retrained

    @property
    def change(self) -> Tensor:
        """λ(without) − λ(with), [P, s]; NaN where a fit did not converge."""
        good = self.with_items.converged & self.without_items.converged
        change = self.without_items.meta - self.with_items.meta
        return torch.where(good.to(change.device), change, torch.nan)

    def loss_change(self, targets: Targets) -> Tensor:
        """Every target's loss without the items minus that with them, [s, T]: positive where adding helps; or NaN."""

        def losses(fits: Retrained) -> Tensor:
            return torch.stack([targets.losses(meta) for meta in fits.meta.T])

        change = losses(self.without_items) - losses(self.with_items)
        return torch.where(self.change.isnan().any(dim=0).unsqueeze(1), torch.nan, change)

    @property
    def complaint(self) -> str:
        """A sentence about the fits that failed; empty if none did."""
        return self.with_items.complaint() or self.without_items.complaint()


def added(context: Context, removals: Sequence[Removal] | None = None) -> Added:
    """Fit exactly with the candidates that hold some items, with these items and without them.

    For whole tasks and classes, without is the fit as it is; for an instance or an image, the tasks that hold it are
    added in both. Added tasks have weight 1 in the sum F, and δ stays.

    Args:
        context: with candidates (`Context.adding`) and a bank.
        removals: the sets of items, of the context's level; every item on its own if not given.

    Raises:
        InputError: there are no candidates or no bank, or the bank's fits are replays of a run that never drew them.
    """
    if context.candidates is None or context.bank is None:
        lacks = "bank of refits: Context(bank=...)" if context.bank is None else "candidate: context.adding(tasks)"
        raise InputError(f"There is no {lacks}. Exact fits with candidates need both.")
    own = context.candidates.weights
    asked = check_removals(context.singles() if removals is None else removals, context.items, context.level)
    bank, base = context.bank.joining(context.candidates.problem.tasks), context.bank.weights
    pairs = [_pair(own, context, removal) for removal in asked]
    return Added(*(bank.under([base.joined(pair[side]) for pair in pairs]) for side in (0, 1)))


def _pair(own: Weights, context: Context, removal: Removal) -> tuple[Weights, Weights]:
    """The candidates' weights with the items, where only the tasks that hold any of them count, and without."""
    held = torch.zeros_like(own.task)
    held[own.tasks_of(context.level, removal).to(held.device)] = 1.0
    whole = replace(own, task=own.task * held)
    return whole, whole.without(context.level, removal)

"""One step along the scores: items that help weigh more, items that harm less. What does it give?"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from metafluence.attribution import Context, Scores, Targets
from metafluence.errors import ConvergenceError, InputError


@dataclass(frozen=True)
class Reweighted:
    """factors [items]: what every item's weight was multiplied by. meta [P]: λ under the new weights.

    predicted, true [T]: the change of every target's loss, in nats, by first order and by the new fit or replay;
    predicted is NaN for scores without units.
    """

    factors: Tensor
    meta: Tensor
    predicted: Tensor
    true: Tensor


def reweighted(context: Context, targets: Targets, scores: Scores, step: float = 0.1) -> Reweighted:
    """Change all weights along the scores' mean over targets, and fit again, or replay where the bank does.

    The item of largest score in size changes by the share `step` of its weight, the others in proportion. Weights are
    cut off at zero, and then scaled so that their sum stays.

    Args:
        context: with a bank, whose weights are changed.
        targets: of the scores.
        scores: of all items of the context's level.
        step: above 0.

    Raises:
        InputError: there is no bank, the scores are of other items or targets or all zero, or the step is not above 0.
        ConvergenceError: the fit under the new weights fails.
    """
    direction = scores.values.mean(dim=1)
    largest = float(direction.abs().max())
    if context.bank is None or context.candidates is not None:
        raise InputError("Reweighting fits again with all items. Give a context with a bank and without candidates.")
    if scores.level != context.level or scores.values.shape != (context.items, targets.count):
        raise InputError(
            f"The scores are {list(scores.values.shape)} of level {scores.level!r}; the context has {context.items} "
            f"items of level {context.level!r}, and there are {targets.count} targets. Give the scores of these."
        )
    if not 0 < step < float("inf") or not 0 < largest < float("inf"):
        raise InputError(
            f"A step of {step} along scores up to {largest:.3g} in size leads nowhere. Both must be above 0 and finite."
        )
    weights = context.bank.weights
    held = weights.of(context.level)
    factors = (1 + step / largest * direction.to(held)).clamp_min(0)
    factors = factors * held.sum() / (factors * held).sum()
    fit = context.bank.under([weights.times(context.level, factors)])
    if not bool(fit.converged.all()):
        raise ConvergenceError(f"Under the new weights: {fit.complaint()} Take a smaller step.")
    predicted = (1 - factors).to(scores.values) @ scores.values
    if scores.units == "rank_only":
        predicted = torch.full_like(predicted, torch.nan)
    meta = fit.meta[:, 0]
    return Reweighted(factors, meta, predicted, targets.losses(meta) - targets.losses())

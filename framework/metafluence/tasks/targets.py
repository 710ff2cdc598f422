"""Targets of tasks: class numbers or real values, whatever integer type and shape they come in."""

from __future__ import annotations

import torch
from torch import Tensor

from metafluence.errors import InputError

RENUMBER = "Number them with classes, targets = torch.unique(targets, return_inverse=True)."


def clean_targets(half: str, targets: Tensor) -> Tensor:
    """Real targets [N, n, C] as they are, class numbers [N, n] or [N, n, 1] of any integer type as int64 [N, n].

    Raises:
        InputError: one-hot rows, negative numbers, numbers of another shape, or real values [N, n], of which it cannot
            be said whether they are classes.
    """
    if targets.is_complex():
        raise InputError(f"The {half} targets are {targets.dtype}. Give classes or real values.")
    if targets.is_floating_point():
        if targets.dim() != 3:
            raise InputError(
                f"The {half} targets are real values of shape {tuple(targets.shape)}; real values are [N, n, C]. Add a "
                "last dimension with targets.unsqueeze(-1), or give classes with targets.long()."
            )
        return targets
    if targets.dim() == 3 and targets.shape[2] == 1:
        targets = targets.squeeze(2)
    if targets.dim() != 2:
        one_hot = targets.dim() == 3 and bool((targets.long().sum(dim=2) == 1).all()) and bool((targets >= 0).all())
        kind = "one-hot rows" if one_hot else "integers"
        fix = "targets.argmax(dim=-1)" if one_hot else "one class number for each instance"
        raise InputError(
            f"The {half} targets are {kind} of shape {tuple(targets.shape)}; class numbers are [N, n]. Give {fix}."
        )
    targets = targets.long()
    if targets.numel() and int(targets.min()) < 0:
        raise InputError(
            f"The {half} targets have the class {int(targets.min())}; class numbers are 0, 1, .... {RENUMBER}"
        )
    return targets


def check_classes(support: Tensor, query: Tensor) -> None:
    """Raises InputError where the class numbers of all tasks together are not 0, 1, ..., without a gap."""
    found = torch.unique(torch.cat([support.flatten(), query.flatten()]))
    if found.numel() and int(found[-1]) >= found.numel():
        few = ", ".join(map(str, found[:5].tolist())) + (", ..." if found.numel() > 5 else "")
        raise InputError(
            f"The targets have {found.numel()} classes, numbered {few} up to {int(found[-1])}; class numbers are 0, 1, "
            f"..., without a gap. {RENUMBER}"
        )

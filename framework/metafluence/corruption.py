"""Corruptions that really harm a few-shot task, with the truth kept.

Relabelling a whole task consistently harms nothing: the task is the same with its classes renamed. Harm needs the
support and the query to disagree, or the inputs to be spoilt.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from metafluence.errors import InputError
from metafluence.tasks import Batch, TaskSet


@dataclass(frozen=True)
class Corruption:
    """What is done to a random `fraction` of the tasks.

    kind: `query-labels` and `support-labels` give a share `strength` of that half's instances the label of another
    class of the task; `noise` adds Gaussian noise of standard deviation `strength` to all inputs.
    """

    kind: Literal["query-labels", "support-labels", "noise"] = "query-labels"
    fraction: float = 0.3
    strength: float = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.fraction <= 1:
            raise InputError(f"corruption.fraction is a share between 0 and 1, not {self.fraction}.")
        if self.strength < 0 or (self.kind != "noise" and self.strength > 1):
            raise InputError(f"corruption.strength is {self.strength}; for {self.kind} it is a share between 0 and 1.")


def corrupt(tasks: TaskSet, corruption: Corruption, generator: torch.Generator) -> TaskSet:
    """Corrupt round(fraction * N) tasks. The changed instances are marked in `corrupted_support`, `corrupted_query`."""
    chosen = torch.randperm(len(tasks), generator=generator)[: round(corruption.fraction * len(tasks))]
    if corruption.kind == "noise":
        for half in ("support", "query"):
            batch: Batch = getattr(tasks, half)
            inputs, touched = batch.inputs.clone(), torch.zeros_like(batch.targets, dtype=torch.bool)
            noise = torch.randn(inputs[chosen].shape, generator=generator, dtype=inputs.dtype)
            inputs[chosen] += corruption.strength * noise
            touched[chosen] = corruption.strength > 0
            tasks = replace(tasks, **{half: Batch(inputs, batch.targets), f"corrupted_{half}": touched})
        return tasks
    half = corruption.kind.removesuffix("-labels")
    batch = getattr(tasks, half)
    targets, touched = _relabel(batch.targets, tasks.ways, chosen, corruption.strength, generator)
    return replace(tasks, **{half: Batch(batch.inputs, targets), f"corrupted_{half}": touched})


def _relabel(
    targets: Tensor, ways: int, chosen: Tensor, strength: float, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    targets, touched = targets.clone(), torch.zeros_like(targets, dtype=torch.bool)
    count = round(strength * targets.shape[1])
    for task in chosen.tolist():
        instances = torch.randperm(targets.shape[1], generator=generator)[:count]
        shift = torch.randint(1, ways, (count,), generator=generator)
        targets[task, instances] = (targets[task, instances] + shift) % ways
        touched[task, instances] = True
    return targets, touched

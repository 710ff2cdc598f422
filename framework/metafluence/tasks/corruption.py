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
from metafluence.registry import Component, NonNegative, Share
from metafluence.tasks.origins import known_origins
from metafluence.tasks.task_set import Batch, TaskSet


@dataclass(frozen=True)
class Corruption(Component):
    """What is done to a random `fraction` of the tasks, or of the data set's images.

    kind: `query-labels` and `support-labels` give a share `strength` of that half's instances the label of another
    class of the task, or, where targets are real values, those of another instance of the half; `noise` adds Gaussian
    noise of standard deviation `strength` to all inputs. `image-labels` are labels that are wrong in the data set: of
    the images that the tasks hold, pairs of two classes exchange their labels, and every episode that draws one draws
    it as the other class; `strength` has no meaning there. Given as a pair, every corrupted task draws its own strength
    between the two, so that some are harder to find than others.
    """

    kind: Literal["query-labels", "support-labels", "noise", "image-labels"] = "query-labels"
    fraction: Share = 0.3
    strength: NonNegative | tuple[NonNegative, NonNegative] = 0.5

    def __post_init__(self) -> None:
        low, high = self.strengths
        if self.kind == "image-labels" and self.strength != 0.5:
            raise InputError(
                f"corruption.strength is {self.strength}, but image-labels have none: an image is mislabelled or not. "
                "Leave it out."
            )
        if low > high:
            raise InputError(f"corruption.strength is {self.strength}; of two strengths, give the smaller one first.")
        if self.kind != "noise" and high > 1:
            raise InputError(
                f"corruption.strength is {self.strength}, but of {self.kind} it is a share. Give one between 0 and 1."
            )

    @property
    def strengths(self) -> tuple[float, float]:
        """The weakest and the strongest."""
        return self.strength if isinstance(self.strength, tuple) else (self.strength, self.strength)


def corrupt(tasks: TaskSet, corruption: Corruption, generator: torch.Generator) -> TaskSet:
    """Corrupt round(fraction * N) tasks. The changed instances are marked in `corrupted_support`, `corrupted_query`.

    Raises InputError for image labels where the tasks do not know their images, or are of one class.
    """
    if corruption.kind == "image-labels":
        return _exchange(tasks, corruption.fraction, generator)
    chosen = torch.randperm(len(tasks), generator=generator)[: round(corruption.fraction * len(tasks))]
    low, high = corruption.strengths
    strengths = low + (high - low) * torch.rand(len(chosen), generator=generator, dtype=torch.float64)
    if corruption.kind == "noise":
        return _spoil(tasks, chosen, strengths, generator)
    half = corruption.kind.removesuffix("-labels")
    batch: Batch = getattr(tasks, half)
    if tasks.real:
        choices = tasks.held(half).sum(dim=1)
    else:
        choices = 1 + torch.maximum(tasks.support.targets.amax(dim=1), tasks.query.targets.amax(dim=1))
    targets, touched = _relabel(batch.targets, tasks.held(half), choices, chosen, strengths, generator)
    return tasks.spoilt(half, Batch(batch.inputs, targets), touched)


def _exchange(tasks: TaskSet, fraction: float, generator: torch.Generator) -> TaskSet:
    """The tasks as drawn where about `fraction` of the images have exchanged their labels in pairs."""
    origins = known_origins(tasks.origins, "image")
    if len(origins.classes) < 2:
        raise InputError("The tasks hold images of one class alone, so that no label can be wrong. Give more classes.")
    partner = _partners(origins.labels, fraction, generator)
    numbers = torch.cat([origins.support.flatten(), origins.query.flatten()])
    inputs = torch.cat([tasks.support.inputs.flatten(0, 1), tasks.query.inputs.flatten(0, 1)])
    nowhere = torch.full((len(origins.images),), len(numbers))
    first = nowhere.scatter_reduce(0, numbers, torch.arange(len(numbers)), "amin")
    shown = inputs[first[partner[numbers]]].split([origins.support.numel(), origins.query.numel()])
    swapped = replace(
        origins, support=partner[origins.support], query=partner[origins.query], labels=origins.labels[partner]
    )
    for half, own in zip(("support", "query"), shown, strict=True):
        batch: Batch = getattr(tasks, half)
        before = getattr(origins, half)
        found = Batch(own.view_as(batch.inputs), batch.targets)
        tasks = tasks.spoilt(half, found, partner[before] != before)
    return tasks.drawn_from(swapped)


def _partners(labels: Tensor, fraction: float, generator: torch.Generator) -> Tensor:
    """With which image each exchanges its label, [M]; itself where it keeps it."""
    partner = torch.arange(len(labels))
    left = torch.randperm(len(labels), generator=generator)[: 2 * round(fraction * len(labels) / 2)].tolist()
    while left:
        image = left.pop()
        other = next((at for at in reversed(range(len(left))) if labels[left[at]] != labels[image]), None)
        if other is not None:
            partner[image], partner[left[other]] = left[other], image
            del left[other]
    return partner


def _spoil(tasks: TaskSet, chosen: Tensor, strengths: Tensor, generator: torch.Generator) -> TaskSet:
    for half in ("support", "query"):
        batch: Batch = getattr(tasks, half)
        inputs, touched = batch.inputs.clone(), torch.zeros(batch.targets.shape[:2], dtype=torch.bool)
        noise = torch.randn(inputs[chosen].shape, generator=generator, dtype=inputs.dtype)
        inputs[chosen] += strengths.to(inputs).reshape(-1, *([1] * (inputs.dim() - 1))) * noise
        touched[chosen] = (strengths > 0).unsqueeze(1) & tasks.held(half)[chosen]
        tasks = tasks.spoilt(half, Batch(inputs, batch.targets), touched)
    return tasks


def _relabel(
    targets: Tensor, held: Tensor, choices: Tensor, chosen: Tensor, strengths: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """New targets, and which ones were changed.

    held [N, n] bool: which instances are no padding. choices [N]: how many classes a task has, or with real targets how
    many instances.
    """
    found, touched = targets.clone(), torch.zeros(targets.shape[:2], dtype=torch.bool)
    real = targets.is_floating_point()
    if bool((choices[chosen] < 2).any()):
        raise InputError(
            "A half of one instance has no other targets to give it. Raise episodes.shot or query to 2."
            if real
            else "A task has one class, so that no label of it can be wrong. Give every task two or more classes."
        )
    for task, strength in zip(chosen.tolist(), strengths.tolist(), strict=True):
        size, others = int(held[task].sum()), int(choices[task])
        count = round(strength * size)
        instances = torch.randperm(size, generator=generator)[:count]
        shift = torch.randint(1, others, (count,), generator=generator)
        if real:
            found[task, instances] = targets[task, (instances + shift) % size]
        else:
            found[task, instances] = (targets[task, instances] + shift) % others
        touched[task, instances] = True
    return found, touched

"""Prompts of a frozen encoder: which demonstration helps the queries of its own prompt?"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor

from metafluence import (
    Batch,
    Count,
    Dataset,
    Episodes,
    InputError,
    Labelled,
    LabelledDataset,
    Source,
    Split,
    TaskSet,
    cross_entropy,
    with_one,
)
from metafluence_plugins.datasets.digits import Digits

BATCH, RATE = 128, 0.003
"""Of the encoder's training: images in a step of Adam, and its rate."""


@dataclass(frozen=True)
class Demonstrations(Dataset):
    """The demonstrations of few-shot prompts: what linear read-outs of frozen features are fitted to.

    An encoder (tanh layers of the sizes `hidden`) is trained to tell the first half of the classes of `of` apart by
    `steps` steps of Adam, and frozen; it is the same for every seed. Each prompt is drawn from the other classes: `way`
    classes, `shot` demonstrations and `query` queries of each. Training task i holds the demonstrations of prompt i as
    its query, validation and test task i other queries of that prompt. Supports repeat the query: nothing adapts.

    The features and a one stand in the i-th block of the inputs of prompt i, zeros elsewhere. So one linear map without
    bias holds a read-out for every prompt, and they share nothing: `joint` with `loss: squared` fits each by ridge
    regression, as `ridge-head` fits its heads. Zhou et al. (2024) attribute in-context learning by influence on such a
    read-out.
    """

    of: LabelledDataset = Digits()
    hidden: tuple[Count, ...] = (32, 16)
    steps: Count = 500

    IDLE: ClassVar = ("split", "shares")

    def sources(self) -> tuple[Source, ...]:
        return self.of.sources()

    def tasks(self, episodes: Episodes, generator: torch.Generator, dtype: torch.dtype) -> Split:
        for name in self.IDLE:
            if getattr(episodes, name) != getattr(Episodes(), name):
                raise InputError(f"No set has other classes here, so episodes.{name} says nothing. Leave it out.")
        counts = {name: getattr(episodes, name) for name in ("train", "validation", "test")}
        if max(counts.values()) > episodes.train:
            raise InputError(
                f"There are {episodes.train} prompts, but {counts['validation']} validation and {counts['test']} test "
                "tasks, which are the queries of one prompt each. Give at most as many as episodes.train."
            )
        data = self.features()
        members = [(data.labels == label).nonzero().squeeze(1) for label in range(len(data.classes))]
        sizes = episodes.shot, episodes.query, episodes.query
        if episodes.way > len(members) or sum(sizes) > min(map(len, members)):
            raise InputError(
                f"The encoder leaves {len(members)} classes of {min(map(len, members))} images or more, and a prompt "
                f"takes {sum(sizes)} of each of {episodes.way}. Lower episodes.way, shot or query."
            )
        prompts = [_drawn(members, episodes.way, sizes, generator) for _ in range(episodes.train)]
        named = zip(counts.items(), zip(*prompts, strict=True), strict=True)
        return Split(*(_in_blocks(name, own[:count], episodes, data, dtype) for (name, count), own in named))

    def features(self) -> Labelled:
        """What the frozen encoder makes of the images of the classes that it was not trained on."""
        data = self.of.load()
        known = len(data.classes) // 2
        old, new = ((data.labels < known) == wanted for wanted in (True, False))
        images, others = (data.draw(some.nonzero().squeeze(1), torch.float64).flatten(1) for some in (old, new))
        encoder = _trained(images, data.labels[old], (images.shape[1], *self.hidden), known, self.steps)
        # Rounded, so that sums in another order, as on another machine, give the same tasks.
        found = (_encoded(encoder, others) * 2**16).round() / 2**16
        return Labelled(found, data.labels[new] - known, data.classes[known:])


def _drawn(members: list[Tensor], way: int, sizes: tuple[int, ...], generator: torch.Generator) -> list[Tensor]:
    """A prompt's demonstrations, queries of validation, and of test: numbers [way, each] of images, a row a class."""
    chosen = torch.randperm(len(members), generator=generator)[:way].tolist()
    rows = [members[c][torch.randperm(len(members[c]), generator=generator)[: sum(sizes)]] for c in chosen]
    return list(torch.stack(rows).split(sizes, dim=1))


def _in_blocks(
    name: str, numbers: tuple[Tensor, ...], episodes: Episodes, data: Labelled, dtype: torch.dtype
) -> TaskSet:
    """A task for each prompt, its features and a one in its own block of the inputs."""
    each = torch.stack(numbers)  # [prompts, way, each]
    found = with_one(data.draw(each.flatten(), dtype)).unflatten(0, (len(each), -1))
    blocks = found.new_zeros(*found.shape[:2], episodes.train, found.shape[2])
    for prompt, own in enumerate(found):
        blocks[prompt, :, prompt] = own
    labels = torch.arange(episodes.way).repeat_interleave(each.shape[2]).expand(len(each), -1)
    batch = Batch(blocks.flatten(2), labels.clone())
    return TaskSet(batch, batch, tuple(f"{name}-{i}" for i in range(len(each))))


def _trained(images: Tensor, labels: Tensor, sizes: tuple[int, ...], classes: int, steps: int) -> list[Tensor]:
    """Weights and biases [outputs, inputs + 1] of the encoder's layers, after training with a head that is left out."""
    generator = torch.Generator().manual_seed(0)
    shapes = pairwise((*sizes, classes))
    layers = [torch.randn(m, n + 1, generator=generator, dtype=images.dtype) / (n + 1) ** 0.5 for n, m in shapes]
    optimiser = torch.optim.Adam([layer.requires_grad_() for layer in layers], lr=RATE)
    for _ in range(steps):
        batch = torch.randint(len(images), (BATCH,), generator=generator)
        logits = with_one(_encoded(layers[:-1], images[batch])) @ layers[-1].mT
        optimiser.zero_grad()
        cross_entropy(logits, labels[batch]).mean().backward()
        optimiser.step()
    return [layer.detach() for layer in layers[:-1]]


def _encoded(layers: list[Tensor], images: Tensor) -> Tensor:
    for layer in layers:
        images = torch.tanh(with_one(images) @ layer.mT)
    return images

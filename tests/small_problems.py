"""A small problem of classes that can be told apart, for tests of training."""

from dataclasses import replace

import torch

from metafluence import Batch, BilevelProblem, Origins, TaskSet
from metafluence_plugins.backbones.mlp import MLP
from metafluence_plugins.learners.logistic_head import LogisticHead
from parts import EXACT


def tasks(count: int = 6, seed: int = 0, noise: float = 1.0, flip: float = 0.0) -> TaskSet:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(6).remainder(2).expand(count, -1).clone()

    def half(flipped: float) -> Batch:
        inputs = noise * torch.randn(count, 6, 3, generator=generator, dtype=torch.float64)
        inputs[..., 0] += 2.0 * labels
        wrong = torch.rand(labels.shape, generator=generator) < flipped
        return Batch(inputs, torch.where(wrong, 1 - labels, labels))

    return TaskSet(half(0.0), half(flip), tuple(f"{seed}-{i}" for i in range(count)))


def with_origins(train: TaskSet, seed: int = 0) -> TaskSet:
    """Tasks whose instances share images at random, and images classes."""
    generator, (n, n_s), n_q = torch.Generator().manual_seed(seed), train.support.targets.shape[:2], train.each("query")
    images = n * (n_s + n_q) // 3
    numbers = torch.cat([torch.arange(images), torch.randint(images, (n * (n_s + n_q) - images,), generator=generator)])
    numbers = numbers[torch.randperm(len(numbers), generator=generator)].view(n, n_s + n_q)
    labels = torch.randint(n, (images,), generator=generator)
    labels[:n] = torch.arange(n)
    names = tuple(f"{i}.png" for i in range(images)), tuple(f"class {c}" for c in range(n))
    return replace(train, origins=Origins(numbers[:, :n_s], numbers[:, n_s:], names[0], labels, names[1]))


def problem(train: TaskSet | None = None, l2: float = 0.1) -> BilevelProblem:
    return BilevelProblem(LogisticHead(MLP((3,)), penalty=0.3), train or tasks(), l2, EXACT)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)

"""A small problem of classes that can be told apart, for tests of training."""

import torch

from metafluence import Batch, BilevelProblem, TaskSet
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


def problem(train: TaskSet | None = None, l2: float = 0.1) -> BilevelProblem:
    return BilevelProblem(LogisticHead(MLP((3,)), penalty=0.3), train or tasks(), l2, EXACT)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)

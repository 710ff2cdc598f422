"""The single-level problem for all libraries: 1,000 training and 50 target instances, four networks."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

TRAIN, TARGETS, L2 = 1000, 50, 1e-2


def mlp() -> nn.Module:
    """About 20 thousand parameters."""
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 25), nn.Tanh(), nn.Linear(25, 10))


def conv() -> nn.Module:
    """About 110 thousand parameters."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.Tanh(), nn.AvgPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1), nn.Tanh(), nn.AvgPool2d(2),
        nn.Flatten(), nn.Linear(1568, 66), nn.Tanh(), nn.Linear(66, 10),
    )  # fmt: skip


def conv4() -> nn.Module:
    """The network of few-shot learning, without a norm: 111,749 parameters."""
    blocks: list[nn.Module] = []
    for channels in (1, 64, 64, 64):
        blocks += [nn.Conv2d(channels, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*blocks, nn.Flatten(), nn.Linear(64, 5))


def deep() -> nn.Module:
    """Three layers on a hundred features: 19,610 parameters."""
    return nn.Sequential(nn.Flatten(), nn.Linear(100, 128), nn.ReLU(), nn.Linear(128, 48), nn.ReLU(), nn.Linear(48, 10))


@dataclass(frozen=True)
class Network:
    """A module, the classes it tells apart, and the side of the images it sees."""

    make: Callable[[], nn.Module]
    classes: int = 10
    side: int = 28


NETWORKS = {"mlp": Network(mlp), "conv": Network(conv), "conv4": Network(conv4, 5), "deep": Network(deep, 10, 10)}


@dataclass(frozen=True)
class Single:
    """A trained network and its data; a learning rate stands for TracIn's one checkpoint."""

    module: nn.Module
    inputs: Tensor
    labels: Tensor
    target_inputs: Tensor
    target_labels: Tensor
    classes: int

    @property
    def size(self) -> int:
        return sum(p.numel() for p in self.module.parameters())


def make(network: str, targets: int = TARGETS) -> Single:
    """Noisy images of ten random patterns, some labels wrong; trained by a few hundred steps of Adam."""
    torch.manual_seed(0)
    made = NETWORKS[network]
    classes, size = made.classes, (made.side, made.side)
    patterns = nn.functional.interpolate(torch.randn(classes, 1, 7, 7), size=size)

    def draw(count: int) -> tuple[Tensor, Tensor]:
        labels = torch.arange(count) % classes
        images = 0.5 * patterns[labels] + torch.randn(count, 1, *size)
        wrong = torch.rand(count) < 0.1
        return images, torch.where(wrong, torch.randint(classes, (count,)), labels)

    module = made.make()
    inputs, labels = draw(TRAIN)
    target_inputs, target_labels = draw(targets)
    optimiser = torch.optim.Adam(module.parameters(), lr=2e-3)
    for _ in range(300):
        chosen = torch.randperm(TRAIN)[:100]
        loss = nn.functional.cross_entropy(module(inputs[chosen]), labels[chosen])
        penalty = L2 / 2 * sum(p.square().sum() for p in module.parameters())
        optimiser.zero_grad()
        (loss + penalty).backward()
        optimiser.step()
    return Single(module.requires_grad_(True), inputs, labels, target_inputs, target_labels, classes)


def gradient_pass(single: Single) -> None:
    """The unit of cost: loss and gradient over all training instances."""
    loss = nn.functional.cross_entropy(single.module(single.inputs), single.labels)
    torch.autograd.grad(loss, list(single.module.parameters()))


def seconds(work: Callable[[], object], repeats: int) -> float:
    """Seconds of the processor, the median: other load on the machine matters less to them."""
    taken = []
    for _ in range(repeats):
        started = time.process_time()
        work()
        taken.append(time.process_time() - started)
    return statistics.median(taken)

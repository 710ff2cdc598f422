"""One step of meta-training conv4 with Adam, as a multiple of plain training on the same images.

Plain training runs the same network forward and backward with torch's Adam, on all images at once and in parts of 50
(smaller tensors are faster on a CPU). Eight tasks of 5 classes with 5 support and 5 query images of 28x28 each,
float32, one thread. Prints medians over steps.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch

import metafluence as mf

TASKS, WAYS, SHOTS = 8, 5, 5


def tasks(generator: torch.Generator) -> mf.TaskSet:
    labels = torch.arange(WAYS).repeat(SHOTS).expand(TASKS, -1)

    def half() -> mf.Batch:
        return mf.Batch(torch.randn(*labels.shape, 1, 28, 28, generator=generator), labels.clone())

    return mf.TaskSet(half(), half(), tuple(str(i) for i in range(TASKS)))


def seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def plain(backbone: mf.Backbone, images: torch.Tensor, part: int) -> Callable[[], None]:
    module = backbone.module(images.shape[1:], None)
    optimiser = torch.optim.Adam(module.parameters())

    def step() -> None:
        optimiser.zero_grad()
        for some in images.split(part):
            module(some).square().sum().backward()
        optimiser.step()

    return step


def measure(learner: mf.MetaLearner, train: mf.TaskSet, rivals: list[Callable[[], None]], steps: int) -> list[float]:
    """Medians over steps: seconds of a step, and the ratio to each rival, which is run right after it."""
    rows: list[list[float]] = []
    last = 0.0

    def after_step(*_: object) -> None:
        nonlocal last
        step = time.perf_counter() - last
        rows.append([step, *(step / seconds(rival) for rival in rivals)])
        last = time.perf_counter()

    trainer = mf.build("trainer", "adam", steps=steps + 1, batch=TASKS)
    problem = mf.BilevelProblem(learner, train, 1e-3, mf.build("solver", "exact"))
    trainer.fit(problem, generator=torch.Generator(), progress=after_step)
    return [statistics.median(column) for column in zip(*rows[1:], strict=True)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=9)
    repeats = parser.parse_args().repeats
    torch.set_num_threads(1)
    train = tasks(torch.Generator().manual_seed(0))
    images = torch.cat([half.inputs.flatten(0, 1) for half in (train.support, train.query)])
    print(f"{'norm':<7}{'learner':<15}{'s per step':>11}{'of plain':>10}{'of plain in parts':>19}")
    for norm in ("group", "batch"):
        backbone = mf.build("backbone", "conv4", norm=norm)
        rivals = [plain(backbone, images, part) for part in (len(images), 50)]
        for name in ("protonet", "ridge-head", "logistic-head"):
            step, whole, parts = measure(mf.build("learner", name, backbone=backbone), train, rivals, repeats)
            print(f"{norm:<7}{name:<15}{step:>11.3f}{whole:>10.2f}{parts:>19.2f}")


if __name__ == "__main__":
    main()

"""Peak memory of passes over a set of tasks that stays on disk, beside the size of the set.

Tasks of 5 classes, 1 support and 5 query images of 3x84x84 each, float32, are written by a generator and opened; then a
gradient, a Hessian product and all tasks' scores are computed with protonet on one layer of 16 outputs, one thread.
Prints seconds and the peak of the whole process (resident set) after each. --memory reads the set into memory first.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from collections.abc import Callable, Iterator

import torch
from torch import nn

import metafluence as mf

WAYS, SHOTS, QUERIES, SHAPE = 5, 1, 5, (3, 84, 84)


def episodes(count: int, shape: tuple[int, ...] = SHAPE) -> Iterator[tuple[torch.Tensor, ...]]:
    """Episodes of noise."""
    for seed in range(count):
        generator = torch.Generator().manual_seed(seed)
        halves = []
        for each in (SHOTS, QUERIES):
            labels = torch.arange(WAYS).repeat_interleave(each)
            halves += [torch.randn(len(labels), *shape, generator=generator), labels]
        yield tuple(halves)


def measured(name: str, work: Callable[[], object]) -> None:
    started = time.perf_counter()
    work()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"{name:<24}{time.perf_counter() - started:8.1f} s   peak {peak:6.2f} GiB", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--gib", type=float, default=3.0, help="size of the set")
    parser.add_argument("--memory", action="store_true", help="read the set into memory first")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    count = int(asked.gib * 2**30 / (WAYS * (SHOTS + QUERIES) * torch.Size(SHAPE).numel() * 4))
    with tempfile.TemporaryDirectory() as folder:
        measured("start", lambda: None)
        measured(f"write {count} tasks", lambda: mf.save_tasks(episodes(count), folder))
        tasks = mf.open_tasks(folder)
        measured("fingerprint", tasks.fingerprint)
        if asked.memory:
            tasks = tasks[:]
            measured("read all", lambda: None)
        module = nn.Sequential(nn.Flatten(), nn.Linear(torch.Size(SHAPE).numel(), 16), nn.Tanh())
        learner = mf.build("learner", "protonet", backbone=module)
        problem = mf.BilevelProblem(learner, tasks, 1.0, mf.build("solver", "exact"), memory_gib=0.5)
        meta = problem.learner.init_meta(torch.Generator().manual_seed(0))
        measured("gradient", lambda: mf.loss_gradient(problem, meta))
        point = problem.at(meta)
        measured("Hessian product", lambda: point.hessian().matmat(torch.ones(problem.size, 1)))
        measured("slopes of all tasks", lambda: point.slopes(torch.ones(problem.size, 1), "task"))


if __name__ == "__main__":
    main()

"""What several processes save: a gradient pass, a Hessian product and task-IF scores with conv4, beside one process.

Eight tasks of 5 classes with 5 support and 5 query images of 28x28 per class, float32, one thread per process. The
first process computes alone, then all together, in turn; prints medians, and the median of the ratios. Start it by
`torchrun --nproc-per-node 2 benchmarks/distributed.py`.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable

import torch
import torch.distributed as dist
from training_step import SHOTS, WAYS

import metafluence as mf
from metafluence.runtime import Ranks, ranks

TASKS, TARGETS = 8, 2


def tasks(count: int, generator: torch.Generator) -> mf.TaskSet:
    labels = torch.arange(WAYS).repeat(SHOTS).expand(count, -1)

    def half() -> mf.Batch:
        return mf.Batch(torch.randn(*labels.shape, 1, 28, 28, generator=generator), labels.clone())

    return mf.TaskSet(half(), half(), tuple(str(i) for i in range(count)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    repeats = parser.parse_args().repeats
    torch.set_num_threads(1)
    joined = mf.join_ranks()
    generator = torch.Generator().manual_seed(0)
    learner = mf.build("learner", "protonet", backbone=mf.build("backbone", "conv4", norm="group"))
    exact = mf.build("solver", "exact")
    problem = mf.BilevelProblem(learner, tasks(TASKS, generator), 10.0, exact, memory_gib=8.0)
    validation = tasks(TARGETS, generator)
    meta = problem.learner.init_meta(generator)
    column = torch.randn(problem.size, 1, generator=generator)
    method = mf.build("method", "task-if", solver={"use": "cg", "rtol": 1e-2})

    def pass_once() -> Callable[[], object]:
        return lambda: mf.loss_gradient(problem, meta)

    def product() -> Callable[[], object]:
        point = problem.at(meta)
        point.product(column, "total")  # builds the graphs, which products share
        return lambda: point.product(column, "total")

    def answer() -> Callable[[], object]:
        point = problem.at(meta)
        targets = mf.Targets(problem, validation, meta)
        return lambda: mf.attribute(method, mf.Context(point, strict=False), targets)

    for name, make in (("gradient pass", pass_once), ("product", product), ("task-IF scores", answer)):
        together = make()
        ranks._joined[0] = Ranks()
        alone = make() if joined.first else None
        rows = []
        for _ in range(repeats + 1):
            ranks._joined[0] = Ranks()
            one = seconds(alone) if alone is not None else 0.0
            ranks._joined[0] = joined
            dist.barrier()
            rows.append((one, seconds(together)))
        if joined.first:
            one, all_ = (statistics.median(column) for column in zip(*rows[1:], strict=True))
            ratio = statistics.median(one / all_ for one, all_ in rows[1:])
            text = f"{name:<16}{one:>9.3f} s alone{all_:>9.3f} s in {joined.count}{ratio:>7.2f} times"
            print(f"{text}, load {os.getloadavg()[0]:.1f}", flush=True)


def seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()

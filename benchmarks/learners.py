"""One total-gradient pass and one product with the exact total Hessian, for every learner on conv4.

Tasks are 5-way, 5-shot, with 15 queries per class, of random images 28x28 in float32. A pass computes the total
gradient from λ: encoder, adaptation from its start, adjoint, encoder backward. A product is one more column on the kept
graphs. The loop computes the same gradient task by task with plain autograd, as one would without this library:
encode, adapt, differentiate (through the steps; else the outer loss minus the adjoint times the inner gradient, with
the adjoint by conjugate gradients on autograd's own products). Both are timed in turn in one run, with one thread; the
ratio is the median over repeats. Memory is the peak growth of the process; each learner has its own process.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.autograd import grad

import metafluence as mf

LEARNERS = {
    "protonet": {},
    "ridge-head": {},
    "logistic-head": {"penalty": 0.1},
    "anil": {"steps": 5, "rate": 0.1},
    "maml": {"steps": 5, "rate": 0.1},
    "imaml": {"proximal": 50.0, "max_iterations": 20},
    "joint": {},
}
RTOL = 1e-3


def tasks(count: int) -> mf.TaskSet:
    generator = torch.Generator().manual_seed(0)
    prototypes = torch.rand(count, 5, 1, 1, 28, 28, generator=generator)

    def half(per_class: int) -> mf.Batch:
        images = 0.7 * prototypes + 0.3 * torch.rand(count, 5, per_class, 1, 28, 28, generator=generator)
        return mf.Batch(images.flatten(1, 2), torch.arange(5).repeat_interleave(per_class).expand(count, -1).clone())

    return mf.TaskSet(half(5), half(15), tuple(str(i) for i in range(count)))


def plain_gradient(problem: mf.BilevelProblem, meta: Tensor) -> Tensor:
    """Σ_i D_λ L_O^i, one task after another."""
    total = torch.zeros_like(meta)
    for i in range(len(problem.tasks)):
        total += plain_task_gradient(problem.learner, problem.tasks[[i]], meta)
    return total + problem.l2 * meta


def plain_task_gradient(learner: mf.MetaLearner, task: mf.TaskSet, meta: Tensor) -> Tensor:
    lam = meta.clone().requires_grad_()
    ones = mf.Weights.ones(task)
    halves = [half.inputs for half in (task.support, task.query)]
    if learner.encodes:
        halves = [learner.encode(lam, inputs[0]).unsqueeze(0) for inputs in halves]
    support, query = mf.Batch(halves[0], task.support.targets), mf.Batch(halves[1], task.query.targets)
    rows = lam[learner.own].unsqueeze(0)
    if learner.unrolls or not learner.adapted_size:
        theta = learner.unroll(rows, support, ones.support, True) if learner.unrolls else rows[:, :0]
        return grad(learner.outer_loss(rows, theta, query, ones.query).sum(), lam)[0]
    fixed = mf.Batch(support.inputs.detach(), support.targets)
    with torch.no_grad():
        theta = learner.adapt(rows.detach(), fixed, ones.support, None).adapted
    theta.requires_grad_()
    outer = learner.outer_loss(rows, theta, query, ones.query).sum()
    inner = learner.inner_loss(rows, theta, support, ones.support).sum()
    (towards,) = grad(inner, theta, create_graph=True)
    (wanted,) = grad(outer, theta, retain_graph=True)
    adjoint = conjugate_gradients(lambda v: grad(towards, theta, v, retain_graph=True)[0], wanted)
    found = grad(outer - (adjoint * towards).sum(), lam)
    return found[0]


def conjugate_gradients(product: Callable[[Tensor], Tensor], rhs: Tensor) -> Tensor:
    value, residual, direction = torch.zeros_like(rhs), rhs.clone(), rhs.clone()
    squared = residual.square().sum()
    target = (RTOL * rhs.norm()).square()
    while squared > target:
        moved = product(direction)
        alpha = squared / (direction * moved).sum()
        value, residual = value + alpha * direction, residual - alpha * moved
        squared, before = residual.square().sum(), squared
        direction = residual + squared / before * direction
    return value


def seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def measure(name: str, count: int, repeats: int, answer: multiprocessing.Queue) -> None:
    torch.set_num_threads(1)
    mf.keep_freed_memory()
    learner = mf.build("learner", name, backbone={"use": "conv4"}, **LEARNERS[name])
    problem = mf.BilevelProblem(learner, tasks(count), 1.0, mf.build("solver", "cg", rtol=RTOL))
    meta = problem.learner.init_meta(torch.Generator().manual_seed(0))
    columns = torch.randn(problem.size, 8, generator=torch.Generator().manual_seed(1))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    point = problem.at(meta)
    gradient = point.gradient
    after_gradient = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    hessian = point.hessian()
    hessian.matmat(columns[:, :1])
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    gap = (plain_gradient(problem, meta) - gradient).norm() / gradient.norm()
    rows = []
    for _ in range(repeats):
        base = seconds(lambda: problem.at(meta).gradient)
        loop = seconds(lambda: plain_gradient(problem, meta))
        alone, eight = (seconds(lambda k=k: hessian.matmat(columns[:, :k])) / k for k in (1, 8))
        rows.append((base / count, loop / base, alone / base, eight / base, alone / count))
    middle = [statistics.median(column) for column in zip(*rows, strict=True)]
    memory = [(peak - before) / 2**10 for peak in (after_gradient, after)]
    answer.put((*middle, *memory, float(gap)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--learners", nargs="*", default=list(LEARNERS))
    options = parser.parse_args()
    print(f"conv4, {options.tasks} tasks, float32, 1 thread; milliseconds per task, MiB for all tasks")
    print(
        f"{'learner':14} {'pass':>7} {'loop/pass':>9} {'product':>8} {'/pass':>6} {'of 8':>6} "
        f"{'pass MiB':>9} {'all MiB':>8} {'gap':>8}"
    )
    spawn = multiprocessing.get_context("spawn")
    for name in options.learners:
        answer = spawn.Queue()
        process = spawn.Process(target=measure, args=(name, options.tasks, options.repeats, answer))
        process.start()
        process.join()
        if process.exitcode:
            print(f"{name:14} failed")
            continue
        base, loop, alone, eight, product, first, peak, gap = answer.get()
        print(
            f"{name:14} {1e3 * base:7.1f} {loop:9.2f} {1e3 * product:8.1f} {alone:6.2f} {eight:6.2f} "
            f"{first:9.0f} {peak:8.0f} {gap:8.0e}",
            flush=True,
        )


if __name__ == "__main__":
    main()

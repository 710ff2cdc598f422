"""One total-gradient pass, and products with the exact and the Gauss-Newton total Hessian, for every learner on conv4.

Tasks are 5-way, of random images 28x28 in float32. A pass computes the total gradient from λ: encoder, adaptation from
its start, adjoint, encoder backward. A product is one more column on the kept graphs, alone or one of ten. The loop
computes the same gradient task by task with plain autograd, as one would without this library:
encode, adapt, differentiate (through the steps; else the outer loss minus the adjoint times the inner gradient, with
the adjoint by conjugate gradients on autograd's own products). All are timed in turn in one run, with one thread, in
seconds of the processor; a ratio is the median over repeats (ten columns are timed once). Memory is the peak growth of
the process; each learner has its own process.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import grad

import metafluence as mf

LEARNERS: dict[str, dict[str, Any]] = {
    "protonet": {},
    "ridge-head": {},
    "logistic-head": {"penalty": 0.1},
    "anil": {"steps": 5, "rate": 0.1},
    "maml": {"steps": 1, "rate": 0.1},
    "maml 5": {"use": "maml", "steps": 5, "rate": 0.1},
    "imaml": {"proximal": 50.0, "max_iterations": 20},
    "joint": {},
}
RTOL = 1e-3


def tasks(count: int, shots: int, queries: int) -> mf.TaskSet:
    generator = torch.Generator().manual_seed(0)
    prototypes = torch.rand(count, 5, 1, 1, 28, 28, generator=generator)

    def half(per_class: int) -> mf.Batch:
        images = 0.7 * prototypes + 0.3 * torch.rand(count, 5, per_class, 1, 28, 28, generator=generator)
        return mf.Batch(images.flatten(1, 2), torch.arange(5).repeat_interleave(per_class).expand(count, -1).clone())

    return mf.TaskSet(half(shots), half(queries), tuple(str(i) for i in range(count)))


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
    started = time.process_time()
    work()
    return time.process_time() - started


def measure(name: str, options: argparse.Namespace, answer: multiprocessing.Queue) -> None:
    torch.set_num_threads(1)
    mf.keep_freed_memory()
    params = {"use": name, **LEARNERS[name], "backbone": {"use": "conv4", "width": options.width}}
    learner = mf.build("learner", params.pop("use"), **params)
    given = tasks(options.tasks, options.shots, options.queries)
    problem = mf.BilevelProblem(learner, given, 1.0, mf.build("solver", "cg", rtol=RTOL), memory_gib=4.0)
    meta = problem.learner.init_meta(torch.Generator().manual_seed(0))
    columns = torch.randn(problem.size, 10, generator=torch.Generator().manual_seed(1))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    point = problem.at(meta)
    gradient = point.gradient
    after_gradient = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    gap = (plain_gradient(problem, meta) - gradient).norm() / gradient.norm()
    base = [seconds(lambda: problem.at(meta).gradient) for _ in range(options.repeats)]
    loop = [seconds(lambda: plain_gradient(problem, meta)) for _ in range(options.repeats)]
    middle = statistics.median(base)
    found = [middle / options.tasks, statistics.median(loop) / middle]
    for form in ("exact", "gauss-newton"):
        hessian = point.hessian("total", form)
        hessian.matmat(columns[:, :1])
        alone = [seconds(lambda h=hessian: h.matmat(columns[:, :1])) for _ in range(options.repeats)]
        found += [statistics.median(alone) / middle, seconds(lambda h=hessian: h.matmat(columns)) / 10 / middle]
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    answer.put((*found, *((peak - before) / 2**10 for peak in (after_gradient, after)), float(gap)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", type=int, default=8)
    parser.add_argument("--shots", type=int, default=5)
    parser.add_argument("--queries", type=int, default=15)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--learners", nargs="*", default=list(LEARNERS))
    options = parser.parse_args()
    print(f"conv4, {options.tasks} tasks, float32, 1 thread; milliseconds per task, MiB for all tasks")
    names = ("loop/pass", "exact", "of 10", "GN", "of 10", "pass MiB", "all MiB", "gap")
    print(f"{'learner':14} {'pass':>7} " + " ".join(f"{name:>9}" for name in names))
    spawn = multiprocessing.get_context("spawn")
    for name in options.learners:
        answer = spawn.Queue()
        process = spawn.Process(target=measure, args=(name, options, answer))
        process.start()
        process.join()
        if process.exitcode:
            print(f"{name:14} failed")
            continue
        base, *ratios, first, peak, gap = answer.get()
        numbers = " ".join(f"{ratio:9.2f}" for ratio in ratios)
        print(f"{name:14} {1e3 * base:7.1f} {numbers} {first:9.0f} {peak:9.0f} {gap:9.0e}", flush=True)


if __name__ == "__main__":
    main()

"""Solves to 1e-8 in double precision, and with products in single: time and products of `cg` and `refined`.

The operator is the Gauss-Newton form of the total Hessian of random tasks at random meta-parameters, with two values of
l2; one thread, alternating, medians of three. The time of `refined` includes building the single-precision graphs; the
double-precision graphs are prepared beforehand for both.
"""

from __future__ import annotations

import statistics
import time

import torch

import metafluence as mf

MLP = {"use": "mlp", "hidden": [10], "activation": "tanh"}
CASES = {
    "protonet, mlp of 196-10": ("protonet", MLP, (196,)),
    "logistic-head, mlp of 196-10": ("logistic-head", MLP, (196,)),
    "protonet, small-conv": ("protonet", "small-conv", (1, 28, 28)),
}


def random_tasks(shape: tuple[int, ...], count: int) -> mf.TaskSet:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(25).remainder(5).expand(count, -1).clone()

    def half() -> mf.Batch:
        return mf.Batch(torch.randn(count, 25, *shape, generator=generator, dtype=torch.float64), labels)

    return mf.TaskSet(half(), half(), tuple(f"task-{i}" for i in range(count)))


def main() -> None:
    torch.set_num_threads(1)
    mf.keep_freed_memory()
    print(f"{'problem':<30}{'P':>6}{'l2':>7}{'cg':>9}{'refined':>9}{'ratio':>7}{'products':>10}{'residuals':>14}")
    for title, (learner, backbone, shape) in CASES.items():
        bound = mf.build("learner", learner, backbone=backbone)
        for l2 in (1.0, 0.01):
            problem = mf.BilevelProblem(bound, random_tasks(shape, 40), l2, mf.build("solver", "exact"))
            plain, refined, found = compare(problem)
            products = "/".join(str(one.matvecs) for one in found)
            residuals = "/".join(f"{float(one.residual):.0e}" for one in found)
            times = f"{plain:>8.2f}s{refined:>8.2f}s{plain / refined:>7.2f}"
            print(f"{title:<30}{problem.size:>6}{l2:>7g}{times}{products:>10}{residuals:>14}", flush=True)


def compare(problem: mf.BilevelProblem) -> tuple[float, float, list[mf.Solution]]:
    """Median seconds of cg and of refined, and their last solutions."""
    point = problem.at(problem.learner.init_meta(torch.Generator().manual_seed(0)))
    operator, rhs = point.hessian(form="gauss-newton"), point.gradient.unsqueeze(1)
    operator.matmat(rhs)  # graphs are made
    solvers = [mf.build("solver", name) for name in ("cg", "refined")]
    seconds: list[list[float]] = [[], []]
    found: list[mf.Solution] = []
    for _ in range(3):
        found = []
        for solver, times in zip(solvers, seconds, strict=True):
            started = time.perf_counter()
            found.append(mf.solve(solver, operator, rhs, strict=False))
            times.append(time.perf_counter() - started)
    return statistics.median(seconds[0]), statistics.median(seconds[1]), found


if __name__ == "__main__":
    main()

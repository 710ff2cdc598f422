"""One product with the exact total Hessian, as a multiple of one total-gradient pass. Both are timed in this run.

A gradient pass computes the total gradient from the meta-parameters, for tasks that have already adapted: encoder
forward, losses, adjoint solve with its factorisation, encoder backward. It does not include the adaptation, which
would make the ratio smaller. Prints medians of the ratio over repeats.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch

import metafluence as mf
from metafluence.bilevel.encoder import Encoder
from metafluence.bilevel.implicit_linearisation import ImplicitLinearisation

STUDY = Path(__file__).parents[1] / "studies" / "solver-comparison.yaml"
BACKBONES = {
    "mlp 12": {"use": "mlp", "hidden": [12]},
    "mlp 128-64": {"use": "mlp", "hidden": [128, 64]},
    "small-conv 8-8": {"use": "small-conv", "channels": [8, 8], "activation": "tanh"},
}


def seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def gradient_pass(problem: mf.BilevelProblem, point: mf.Point) -> torch.Tensor:
    tasks, weights = problem.tasks, point.weights
    encoder = Encoder(problem.learner, point.meta, tasks.support, tasks.query)
    support = mf.Batch(encoder.support, tasks.support.targets)
    query = mf.Batch(encoder.query, tasks.query.targets)
    rows = point.meta[problem.learner.own].expand(len(tasks), -1)
    at = ImplicitLinearisation(problem.learner, rows, support, query, weights, point.adapted, problem.inner_solver)
    return encoder.pullback(at.gradient)


def measure(problem: mf.BilevelProblem, point: mf.Point, repeats: int) -> list[float]:
    """Medians: seconds of a gradient pass; then, in such passes, a product alone, of 8, of 32, and all responses."""
    hessian = point.hessian()
    columns = torch.randn(problem.size, 32, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    assert torch.allclose(gradient_pass(problem, point) + problem.l2 * point.meta, point.gradient)
    hessian.matmat(columns)
    rows = []
    for _ in range(repeats):
        base = seconds(lambda: gradient_pass(problem, point))
        per_column = [seconds(lambda k=k: hessian.matmat(columns[:, :k])) / k for k in (1, 8, 32)]
        rows.append((base, *(c / base for c in per_column), seconds(point.task_gradients) / base))
    return [statistics.median(column) for column in zip(*rows, strict=True)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=15)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    config = mf.load_study(STUDY)
    data = mf.build("dataset", "digits").load()
    split = mf.sample(data, config.episodes, torch.Generator().manual_seed(0), torch.float64)
    print(f"{len(split.train)} tasks, {options.threads} thread(s), float64, median of {options.repeats}")
    print(f"{'backbone':<20}{'P':>8}{'gradient ms':>13}{'product':>10}{'of 8':>8}{'of 32':>8}{'all r_i':>9}")
    for name, backbone in BACKBONES.items():
        learner = mf.build("learner", "logistic-head", backbone=backbone, penalty=0.5)
        problem = mf.BilevelProblem(learner, split.train, config.l2, mf.build("solver", "exact"))
        point = problem.at(problem.learner.init_meta(torch.Generator().manual_seed(0)))
        base, one, eight, many, each = measure(problem, point, options.repeats)
        print(f"{name:<20}{problem.size:>8}{1e3 * base:>13.1f}{one:>10.2f}{eight:>8.2f}{many:>8.2f}{each:>9.2f}")


if __name__ == "__main__":
    main()

"""Cost of scoring all items of the demo, in total-gradient passes over all its tasks; all timed in this run.

A gradient pass computes the total gradient from meta-parameters and adapted parameters: encoder, losses, adjoint
solve, encoder backward. All levels share the solve: one per target, here the mean validation loss. The cost of the
scores is the additional time for all items of a level. Prints medians over repeats.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

import metafluence as mf

STUDY = Path(__file__).parents[1] / "studies" / "digits.yaml"


def seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=9)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    config = mf.load_study(STUDY).model_copy(
        update={"truth": None, "checkpoints": None, "budget": None, "methods": ["loss"]}
    )
    with tempfile.TemporaryDirectory() as folder:
        bench = mf.Study(config, mf.default_registry(), Path(folder)).prepare().evaluation
    goal = bench.targets().gradients()
    prepared = mf.PreparedSolve(mf.build("solver", "cg"), bench.context().point.hessian())
    rows = []
    for _ in range(options.repeats):
        point = bench.context().point
        assert point.adapted.isfinite().all()  # adapts
        base = seconds(lambda point=point: point.partial_gradient("total"))
        solve = seconds(lambda: prepared.solve(goal))
        direction = prepared.solve(goal).value
        point = bench.context().point
        point.partial_gradient("total")
        levels = [seconds(lambda level=level, p=point, d=direction: p.slopes(d, level)) for level in mf.WEIGHED]
        rows.append([solve / base, *(s / base for s in levels)])
    medians = [statistics.median(column) for column in zip(*rows, strict=True)]
    items = {level: bench.problem.tasks.corrupted_items(level).numel() for level in mf.WEIGHED}
    print(f"{options.threads} thread(s), {options.repeats} repeats; in total-gradient passes over all tasks")
    print(f"{'the solve, for all levels (cg to 1e-8)':<42}{medians[0]:6.1f}")
    for level, cost in zip(mf.WEIGHED, medians[1:], strict=True):
        print(f"{f'scores of all {items[level]} items, level {level}':<42}{cost:6.2f}")


if __name__ == "__main__":
    main()

"""What a sweep back through a recorded run costs, in multiples of the time of the run, and the memory it takes.

`time`: maml, protonet and ridge-head on digits with a small tanh network, and on drawn images of 28 x 28 with a smooth
conv4 of width 16, float32, one target and the items of all levels. `memory`: peaks of runs of many steps of a tiny
problem, in processes of their own, with room for the gradients of few steps. One thread; seconds are of the processor,
so that other work on the machine counts little; medians.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from statistics import median
from typing import Any

import torch

import metafluence as mf

LEARNERS: dict[str, dict[str, Any]] = {
    "maml": {"use": "maml", "steps": 2, "rate": 0.4},
    "protonet": {"use": "protonet"},
    "ridge-head": {"use": "ridge-head"},
}
NETWORKS: dict[str, dict[str, Any]] = {"mlp": {"use": "mlp", "hidden": [64]}, "conv4": {"use": "conv4", "width": 16}}


def digits(count: int, dtype: torch.dtype = torch.float32) -> mf.TaskSet:
    """5-way digit tasks: 3 support and 5 query images of each class."""
    episodes = mf.Episodes(train=count, validation=4, test=4, way=5, shot=3, query=5, split="instances")
    return mf.build("dataset", "digits").tasks(episodes, torch.Generator().manual_seed(0), dtype).train


def images(count: int, query: int = 3, seed: int = 0) -> mf.TaskSet:
    """5-way 1-shot tasks of noise, 28 x 28: what a step costs does not depend on what is drawn."""
    generator = torch.Generator().manual_seed(seed)

    def half(each: int) -> mf.Batch:
        labels = torch.arange(5).repeat(each).expand(count, -1)
        return mf.Batch(torch.rand(count, 5 * each, 1, 28, 28, generator=generator), labels)

    return mf.TaskSet(half(1), half(query), tuple(str(i) for i in range(count)))


def seconds(work: Callable[[], Any]) -> float:
    started = time.process_time()
    work()
    return time.process_time() - started


def cost(learner: str, network: str, steps: int, batch: int, repeats: int) -> None:
    tasks = digits(4 * batch) if network == "mlp" else images(2 * batch)
    built = mf.default_registry().build("learner", {**LEARNERS[learner], "backbone": NETWORKS[network]})
    problem = mf.BilevelProblem(built, tasks, 0.1, mf.build("solver", "exact"))
    adam = mf.build("trainer", "adam", steps=steps, batch=batch, record=True, checkpoints=0, learning_rate=1e-3)
    goals = torch.ones(problem.size, 1)
    whole = adam.fit(problem, generator=torch.Generator().manual_seed(1)).run
    assert whole is not None
    replayed = replace(whole, states=whole.in_memory().states)  # without gradients
    steps_alone, ratios = [], ([], [])
    for _ in range(repeats):
        trained = seconds(partial(run_steps, whole))
        steps_alone.append(trained)
        for run, found in zip((whole, replayed), ratios, strict=True):
            found.append(seconds(partial(mf.run_adjoint, run, goals, mf.WEIGHED)) / trained)
    kept, made = (median(found) for found in ratios)
    print(
        f"{learner} {network}: P {problem.size}, a step {1e3 * median(steps_alone) / steps:.1f} ms; sweep/run "
        f"{kept:.2f}, {made:.2f} without kept gradients",
        flush=True,
    )


def run_steps(run: mf.TrainingRun) -> None:
    """The run's steps and nothing else of a fit."""
    for segment in run.segments():
        run.replayed(*segment)


def peak(steps: int) -> None:
    """Prints what recording and the sweep add to the peak of memory, and what all states and gradients would take."""
    learner = mf.build("learner", "protonet", backbone={"use": "mlp", "hidden": [16]})
    tasks, exact = digits(8, torch.float64), mf.build("solver", "exact")
    problem = mf.BilevelProblem(learner, tasks, 0.1, exact, memory_gib=0.01)
    adam = mf.build("trainer", "adam", steps=steps, batch=2, record=True, checkpoints=0, learning_rate=1e-4)
    goals = torch.ones(problem.size, 1, dtype=torch.float64)

    def recorded(count: int) -> mf.TrainingRun:
        run = replace(adam, steps=count).fit(problem, generator=torch.Generator().manual_seed(1)).run
        assert run is not None
        return run

    mf.run_adjoint(recorded(20), goals, mf.WEIGHED)
    marks = [highest()]
    run = recorded(steps)
    marks.append(highest())
    mf.run_adjoint(run, goals, mf.WEIGHED)
    marks.append(highest())
    recording, sweep = marks[1] - marks[0], marks[2] - marks[1]
    every = steps * 4 * problem.size * 8 / 2**20
    print(
        f"{steps} steps: beside a run of 20 steps recording adds {recording:.1f} MiB to the peak, the sweep "
        f"{sweep:.1f} more; all states and gradients would take {every:.0f}"
    )


def highest() -> float:
    """Peak memory of this process so far, MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=("time", "memory"))
    parser.add_argument("--learners", nargs="+", default=list(LEARNERS), choices=list(LEARNERS))
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=list(NETWORKS))
    parser.add_argument("--steps", type=int, nargs="+", default=None, help="of a run")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--alone", action="store_true", help="of memory: in this process")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.kind == "time":
        for network in options.networks:
            steps = (options.steps or [25 if network == "mlp" else 6])[0]
            for learner in options.learners:
                cost(learner, network, steps, 8 if network == "mlp" else 4, options.repeats)
        return
    for steps in options.steps or (1000, 10000):
        if options.alone:
            peak(steps)
        else:
            subprocess.run([sys.executable, __file__, "memory", "--alone", "--steps", str(steps)], check=True)


if __name__ == "__main__":
    main()

"""Time and peak memory of a gradient, a Hessian product and the slopes of all tasks, by the number of tasks.

conv4 of 32 filters on tasks of 5 classes, 1 support and 5 query images of 28x28 noise in float32, which stay on disk;
one thread. Times are seconds of the processor. Every measurement has a process of its own, which reads the tasks that
another has written. Memory is by how much its peak (resident set) grew after the problem was made: it is to stay below
`--memory` however many tasks there are. What is measured is added to `--results`, of which `--figure` draws all.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import tempfile
import time
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from matplotlib.figure import Figure
from stored_tasks import episodes

import metafluence as mf

COLOURS, MARKERS = ["#0072B2", "#D55E00", "#009E73"], ["o", "s"]

SHAPE = (1, 28, 28)
LEARNERS: dict[str, dict[str, Any]] = {"protonet": {}, "maml": {"steps": 1, "rate": 0.1}}
WORK = {
    "gradient": mf.loss_gradient,
    "product": lambda problem, meta: problem.at(meta).hessian().matmat(meta.unsqueeze(1)),
    "slopes": lambda problem, meta: problem.at(meta).slopes(meta.unsqueeze(1), "task"),
}


def peak() -> float:
    """GiB of the process at its largest."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def measure(name: str, work: str, folder: str, memory_gib: float, answer: multiprocessing.Queue) -> None:
    torch.set_num_threads(1)
    learner = mf.build("learner", name, backbone={"use": "conv4", "width": 32}, **LEARNERS[name])
    solver = mf.build("solver", "exact")
    problem = mf.BilevelProblem(learner, mf.open_tasks(folder), 1.0, solver, memory_gib=memory_gib)
    meta = problem.learner.init_meta(torch.Generator().manual_seed(0))
    before, started = peak(), time.process_time()
    WORK[work](problem, meta)
    answer.put((time.process_time() - started, peak() - before))


def written(count: int, folder: str) -> None:
    mf.save_tasks(episodes(count, SHAPE), folder)


def alone(work: Any, *parts: Any) -> None:
    """`work` in a process of its own."""
    process = multiprocessing.get_context("spawn").Process(target=work, args=parts)
    process.start()
    process.join()
    if process.exitcode:
        raise RuntimeError(f"{work.__name__}{parts} ended with {process.exitcode}")


def draw(found: pd.DataFrame, file: Path) -> None:
    """Seconds and memory by the number of tasks, a line for each learner and kind of work."""
    figure = Figure(figsize=(8.4, 3.8), layout="constrained")
    axes = figure.subplots(1, 2)
    for i, (learner, of_learner) in enumerate(found.groupby("learner", sort=False)):
        for j, work in enumerate(WORK):
            rows = of_learner.query("work == @work").sort_values("tasks")
            look = {"color": COLOURS[j], "marker": MARKERS[i], "ls": ["-", "--"][i], "ms": 5, "lw": 1.5}
            for axis, column in zip(axes, ("seconds", "gib"), strict=True):
                axis.plot(rows["tasks"], rows[column], label=f"{learner}, {work}", **look)
    for axis, name in zip(axes, ("seconds of the processor", "memory at the peak, GiB"), strict=True):
        axis.set(xscale="log", xlabel="tasks", ylabel=name)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_yscale("log")
    axes[1].set_ylim(0, 1.05)
    axes[1].axhline(1, color="#999999", lw=1, ls=":")
    axes[1].annotate("memory_gib", (1, 1), xycoords=("axes fraction", "data"), ha="right", va="bottom", fontsize=8)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=8, frameon=False)
    figure.savefig(file, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--learner", choices=LEARNERS, default="protonet")
    parser.add_argument("--tasks", type=int, nargs="*", default=[100, 300, 1000])
    parser.add_argument("--work", nargs="+", choices=WORK, default=list(WORK))
    parser.add_argument("--memory", type=float, default=1.0, help="memory_gib")
    parser.add_argument("--results", type=Path, default=Path("many-tasks.csv"))
    parser.add_argument("--figure", type=Path)
    asked = parser.parse_args()
    print(f"{asked.learner}, memory_gib {asked.memory:g}; seconds, milliseconds a task, GiB at the peak")
    for count in asked.tasks:
        with tempfile.TemporaryDirectory() as place:
            folder = str(Path(place) / "tasks")
            alone(written, count, folder)
            for work in asked.work:
                answer = multiprocessing.get_context("spawn").Queue()
                alone(measure, asked.learner, work, folder, asked.memory, answer)
                seconds, gib = answer.get()
                print(f"{work:<10}{count:>7}{seconds:9.1f}{1e3 * seconds / count:9.1f}{gib:8.2f}", flush=True)
                with asked.results.open("a") as file:
                    file.write(f"{asked.learner},{work},{count},{seconds:.2f},{gib:.3f}\n")
    if asked.figure is not None:
        draw(pd.read_csv(asked.results, names=["learner", "work", "tasks", "seconds", "gib"]), asked.figure)


if __name__ == "__main__":
    main()

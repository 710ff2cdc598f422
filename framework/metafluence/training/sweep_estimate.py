"""What a sweep through a run will take, from one of its steps."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from metafluence.progress import duration
from metafluence.tasks import WEIGHED, Level
from metafluence.training.kept_sweep import Sweep
from metafluence.training.run import TrainingRun
from metafluence.training.run_derivatives import step_back


@dataclass(frozen=True)
class SweepEstimate:
    """seconds: time of the whole sweep. gib: memory beside what the run itself keeps."""

    seconds: float
    gib: float

    def __str__(self) -> str:
        return f"about {duration(self.seconds)} and {self.gib:.2g} GiB"


def estimate_sweep(run: TrainingRun, columns: int = 1, levels: Sequence[Level] = WEIGHED) -> SweepEstimate:
    """What `run_adjoint` will take for this many goals: its last step is made, and stepped back from, twice.

    The first time also measures the memory of the graphs. Estimates of short steps on a busy machine are rough.
    """
    if not run.steps:
        return SweepEstimate(0.0, 0.0)
    sweep = Sweep.start(run, torch.ones(run.problem.size, columns).to(run.peaks), levels)
    start, stop = run.segments()[-1]
    _seconds_of_a_step(run, sweep)
    seconds = _seconds_of_a_step(run, sweep)
    vectors = (stop - start) * (len(sweep.parts) + 1) + columns * 2 * len(sweep.parts)
    items = sum(total.numel() for total in sweep.found.values()) + sweep.growth.numel()
    per_task = run.problem.bytes_per_task(run.final)
    graphs = min(per_task * len(run.batches[-1]) * columns, run.problem.memory_gib * 2**30)
    size = (vectors * run.problem.size + items) * run.peaks.element_size() + graphs
    return SweepEstimate(seconds * run.steps, size / 2**30)


def _seconds_of_a_step(run: TrainingRun, sweep: Sweep) -> float:
    """What the run's last step takes: to be made, as one of its segment, and to be stepped back from."""
    began = time.perf_counter()
    steps = run.recorded(*run.segments()[-1])
    made = time.perf_counter()
    step_back(run, steps[-1], sweep)
    return time.perf_counter() - made + (made - began) / len(steps)

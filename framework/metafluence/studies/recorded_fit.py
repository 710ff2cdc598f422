"""The fit of a study that was made elsewhere: a recorded run."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import torch

from metafluence.bilevel import BilevelProblem
from metafluence.errors import InputError
from metafluence.learners import MetaLearner
from metafluence.linalg import Solver
from metafluence.registry import Registry
from metafluence.studies.config import RunStudyConfig
from metafluence.studies.run_inputs import read_learner
from metafluence.tasks import TaskSet, Weights
from metafluence.training import (
    Fit,
    Progress,
    Trainer,
    TrainingRun,
    load_recording,
    load_run,
    loss_gradient,
    remade_run,
)


def open_run(config: RunStudyConfig, registry: Registry, solver: Solver, device: torch.device) -> TrainingRun:
    """The run of a study. Raises InputError or StoreError where it cannot be opened, or is of another number type."""
    asked = config.learner
    learner: MetaLearner = (
        read_learner(asked, registry, "learner") if isinstance(asked, str) else registry.build("learner", asked)
    )
    run = load_recording(config.run, learner, inner_solver=solver, memory_gib=config.memory_gib, device=str(device))
    found = str(run.problem.tasks.dtype).removeprefix("torch.")
    if found != config.dtype:
        raise InputError(f"dtype is {config.dtype}, but the run in {config.run} is of {found}. Set dtype: {found}.")
    return run


@dataclass(frozen=True)
class RecordedFit(Trainer):
    """Its only fit is the run in a folder, made anew there so that replays give its very bits.

    digest: of the run, so that one that was recorded again is another fit.
    """

    run: Path
    digest: str

    @property
    def records(self) -> bool:
        return True

    def recording(self) -> Trainer:
        return self

    def fit(
        self,
        problem: BilevelProblem,
        weights: Weights | None = None,
        init: torch.Tensor | None = None,
        generator: torch.Generator | None = None,
        progress: Progress | None = None,
        validation: TaskSet | BilevelProblem | None = None,
        folder: str | Path | None = None,
    ) -> Fit:
        begun = time.perf_counter()
        run = remade_run(load_run(self.run, problem), folder)
        norm = float(loss_gradient(problem, run.final, run.weights)[1].norm())
        return Fit(run.final, norm, False, run.steps, 0, time.perf_counter() - begun, run=run)

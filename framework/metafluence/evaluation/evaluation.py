"""What all runs at one level are compared on."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from metafluence.attribution import Context, Targets
from metafluence.bilevel import BilevelProblem
from metafluence.evaluation.ground_truth import Truth
from metafluence.networks import accuracy
from metafluence.tasks import Level, TaskSet
from metafluence.training import Checkpoint, RetrainBank, TrainingRun

NAN = float("nan")


@dataclass(frozen=True)
class TestQuality:
    """Mean accuracy and loss (nats) over the test tasks' queries; real targets have no accuracy (NaN)."""

    accuracy: float = NAN
    loss: float = NAN


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What every run at one level shares."""

    problem: BilevelProblem
    meta: Tensor
    """λ*, [P]."""
    adapted: Tensor
    """θ of all training tasks at λ*, [N, Q]."""
    validation: TaskSet
    """The targets of all scores."""
    test_tasks: TaskSet
    bank: RetrainBank | None
    """Exact retrainings about λ*; None where the study has no ground truth."""
    checkpoints: tuple[Checkpoint, ...] = ()
    """Of meta-training, for the methods that need some."""
    run: TrainingRun | None = None
    """The recorded run that ended in λ*, for the methods that need one."""
    seed: int
    level: Level = "task"
    truth: Truth | None = None
    remove: tuple[int, ...] = (1,)
    """The numbers of items of lowest score that are removed, the first one for the table's columns."""
    selection: TaskSet | None = None
    """Validation tasks that choose dampings and are no targets; None where nothing is chosen."""

    def context(self, problem: BilevelProblem | None = None) -> Context:
        """A fresh point, so that no method finds the graphs of the one before it ready made."""
        point = (problem or self.problem).at(self.meta, init=self.adapted)
        return Context(point, self.level, self.generator(), self.bank, self.checkpoints, run=self.run)

    def generator(self) -> torch.Generator:
        """The randomness of every run, from its start."""
        return torch.Generator().manual_seed(self.seed)

    def targets(self, problem: BilevelProblem | None = None) -> Targets:
        """The mean loss of the validation tasks."""
        return Targets(problem or self.problem, self.validation, self.meta)

    def test(self, meta: Tensor) -> TestQuality:
        """How the model does on the test tasks, after adapting to their supports at `meta` [P]."""
        point = self.problem.over(self.test_tasks).at(meta)
        loss = float(point.task_losses.mean())
        if self.test_tasks.real:
            return TestQuality(loss=loss)
        return TestQuality(float(accuracy(point.predictions, self.test_tasks.query.targets).mean()), loss)

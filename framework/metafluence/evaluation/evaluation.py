"""What all runs at one level are compared on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

import torch
from torch import Tensor

from metafluence.attribution import Context, Targets
from metafluence.bilevel import BilevelProblem
from metafluence.evaluation.ground_truth import Truth
from metafluence.networks import accuracy
from metafluence.tasks import Level, Removal, TaskSet
from metafluence.training import Checkpoint, RetrainBank, TrainingRun

NAN = float("nan")


@dataclass(frozen=True)
class TestQuality:
    """Mean accuracy and loss (nats) over the test tasks' queries; real targets have no accuracy (NaN)."""

    accuracy: float = NAN
    loss: float = NAN

    @classmethod
    def mean(cls, several: Sequence[TestQuality]) -> TestQuality:
        """The mean of each."""
        return cls(fmean(one.accuracy for one in several), fmean(one.loss for one in several))


@dataclass(frozen=True)
class Retests:
    """The test tasks after each of some removals, the seconds of the first one, and what failed, in words."""

    qualities: tuple[TestQuality, ...]
    seconds: float = NAN
    complaint: str = ""


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
    seen: Tensor | None = None
    """The numbers of the items that the replayed run saw, of which alone is asked; None where it is asked of all."""
    extremes: tuple[int, ...] = ()
    """The numbers of items of highest and of lowest score without which the targets' losses are compared."""
    without_random: Tensor = torch.empty(0)
    """The change of every target's loss without random sets of these sizes, [sizes, draws, targets]."""
    selection: TaskSet | None = None
    """Validation tasks that choose dampings and are no targets; None where nothing is chosen."""
    others: tuple[Evaluation, ...] = ()
    """The same at the other runs of a procedure, where the truth is a mean over runs."""

    @property
    def runs(self) -> tuple[Evaluation, ...]:
        """Itself and the others."""
        return (self, *self.others)

    def context(self, problem: BilevelProblem | None = None) -> Context:
        """A fresh point, so that no method finds the graphs of the one before it ready made."""
        weights = None if self.run is None else self.run.weights  # a loop whose loss is a sum has others than ones
        point = (problem or self.problem).at(self.meta, weights, init=self.adapted)
        return Context(point, self.level, self.generator(), self.bank, self.checkpoints, run=self.run)

    def generator(self) -> torch.Generator:
        """The randomness of every run, from its start."""
        return torch.Generator().manual_seed(self.seed)

    def targets(self, problem: BilevelProblem | None = None) -> Targets:
        """The mean loss of the validation tasks."""
        return Targets(problem or self.problem, self.validation, self.meta)

    def full(self) -> TestQuality:
        """How the test tasks do at λ*; the mean over runs where there are several."""
        return TestQuality.mean([one.test(one.meta) for one in self.runs])

    def retrained(self, removals: Sequence[Removal]) -> Retests:
        """How the test tasks do after retraining without each removal; NaN where that failed, in any of the runs."""
        if self.bank is None:
            return Retests((TestQuality(),) * len(removals))
        seconds, complaint, by_run = 0.0, "", []
        for one in self.runs:
            assert one.bank is not None
            fits = one.bank.leave_out(removals, self.level, strict=False)
            pairs = zip(fits.meta.T, fits.converged, strict=True)
            by_run.append([one.test(meta) if converged else TestQuality() for meta, converged in pairs])
            seconds += NAN if fits.reasons[0] else float(fits.seconds[0])
            complaint = complaint or fits.complaint()
        return Retests(tuple(TestQuality.mean(some) for some in zip(*by_run, strict=True)), seconds, complaint)

    def test(self, meta: Tensor) -> TestQuality:
        """How the model does on the test tasks, after adapting to their supports at `meta` [P]."""
        point = self.problem.over(self.test_tasks).at(meta)
        loss = float(point.task_losses.mean())
        if self.test_tasks.real:
            return TestQuality(loss=loss)
        each = accuracy(point.predictions, self.test_tasks.query.targets, point.weights.query)
        return TestQuality(float(each.mean()), loss)

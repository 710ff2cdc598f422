"""Meta-training: what a trainer and a fit are. Retraining without an item is a fit with its weight at zero."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from metafluence.bilevel import BilevelProblem, Point
from metafluence.networks import accuracy
from metafluence.registry import Component
from metafluence.tasks import TaskSet, Weights

if TYPE_CHECKING:  # a run is made of gradients that this file takes
    from metafluence.training.run import TrainingRun


@dataclass(frozen=True)
class Record:
    """One step of meta-training.

    loss (nats), accuracy: means over the tasks of the step before it was made; accuracy is None for real targets.
    gradient_norm: of what was followed there. learning_rate: of the step, where it has one.
    validation_loss, validation_accuracy: means over the validation tasks after the step, where they were asked.
    """

    step: int
    loss: float
    accuracy: float | None
    gradient_norm: float
    learning_rate: float | None = None
    validation_loss: float | None = None
    validation_accuracy: float | None = None

    def __str__(self) -> str:
        share = "" if self.accuracy is None else f" acc {self.accuracy:.2f}"
        return f"loss {self.loss:.3g}{share} ‖∇F‖ {self.gradient_norm:.1e}"

    def validation(self) -> str:
        """The validation in words; empty where there was none."""
        if self.validation_loss is None:
            return ""
        share = "" if self.validation_accuracy is None else f" acc {self.validation_accuracy:.2f}"
        return f"validation {self.validation_loss:.3g}{share}"


Progress = Callable[[int, int, Record], None]
"""Given after each step: steps done, steps at most, and the step's record."""


@dataclass(frozen=True)
class Checkpoint:
    """Meta-parameters [P] after `step` steps, and the mean learning rate of the steps since the checkpoint before it,
    for steps along the sum F.

    before: the meta-parameters [P] before the last of these steps, where its gradient was taken; None if not kept.
    """

    step: int
    learning_rate: float
    meta: Tensor
    before: Tensor | None = None

    @property
    def taken_at(self) -> Tensor:
        """Where the step's gradient was taken, [P]; `meta` if that was not kept."""
        return self.meta if self.before is None else self.before


def stack_checkpoints(checkpoints: Sequence[Checkpoint], like: Tensor) -> Tensor:
    """[k, 2, P]: the meta-parameters of each, and where its last step was taken; like [P] gives the shape of none."""
    pairs = [torch.stack([c.meta, c.taken_at]) for c in checkpoints]
    return torch.stack(pairs) if pairs else like.detach().new_empty(0, 2, like.numel())


@dataclass(frozen=True)
class Fit:
    """λ* and how it was reached.

    gradient_norm: ‖∇F‖ at `meta`. converged: it is below the trainer's tolerance. products: Hessian products used.
    steps: how many were made. history: a record of each. best_step: the one that `meta` was taken from because
    validation was best there; None where nothing was validated, and `meta` is the last. run: the steps that led there,
    if the trainer was told to record them.
    """

    meta: Tensor
    gradient_norm: float
    converged: bool
    steps: int
    products: int
    seconds: float
    checkpoints: tuple[Checkpoint, ...] = ()
    history: tuple[Record, ...] = ()
    best_step: int | None = None
    run: TrainingRun | None = None


class Trainer(Component, ABC):
    """Minimises F. A frozen dataclass: its fields are its configuration."""

    @property
    def needs_validation(self) -> bool:
        """`fit` judges its steps on validation tasks, and must be given some."""
        return False

    @abstractmethod
    def fit(
        self,
        problem: BilevelProblem,
        weights: Weights | None = None,
        init: Tensor | None = None,
        generator: torch.Generator | None = None,
        progress: Progress | None = None,
        validation: TaskSet | BilevelProblem | None = None,
        folder: Path | None = None,
    ) -> Fit:
        """Fit from `init` [P] (a warm start), or from fresh meta-parameters drawn from `generator`.

        validation: tasks to judge steps on, for trainers that do. folder: where a long fit keeps its state, to go on
        from when it is called again; trainers of few steps may pass it over.
        """

    def near(self, problem: BilevelProblem, meta: Tensor, fits: int) -> Shared | None:
        """Work done once at `meta` [P], with all weights 1, for `fits` fits that start there; None where none pays.

        What they end in is the same to the trainer's tolerance.
        """
        return None


@dataclass(frozen=True)
class Shared:
    """A trainer for fits from one start, and the seconds and products of the work that it has been given for them."""

    trainer: Trainer
    seconds: float
    products: int


class Quality(NamedTuple):
    """Mean loss (nats) and accuracy over tasks and their query instances; accuracy is None for real targets."""

    loss: float
    accuracy: float | None


def loss_gradient(problem: BilevelProblem, meta: Tensor, weights: Weights | None = None) -> tuple[Quality, Tensor]:
    """How the tasks do at `meta` [P], their losses weighted, and the total gradient of F there, [P].

    One pass forward and one back, a few tasks at a time; nothing is kept for products.
    """
    weights = weights or Weights.ones(problem.tasks)
    gradient = problem.l2 * meta.detach()
    losses, outputs = [], []
    for chunk in problem.gradient_chunks(meta.detach(), weights):
        gradient = gradient + chunk.gradient("total")
        losses.append(chunk.losses() * chunk.weights.task)
        outputs.append(chunk.predictions())
    return _quality(problem, torch.cat(losses), torch.cat(outputs)), gradient


def validate(problem: BilevelProblem, meta: Tensor) -> Quality:
    """How the tasks of `problem` do at `meta` [P]."""
    losses, outputs = [], []
    for chunk in problem.gradient_chunks(meta.detach(), Weights.ones(problem.tasks)):
        losses.append(chunk.losses())
        outputs.append(chunk.predictions())
    return _quality(problem, torch.cat(losses), torch.cat(outputs))


def quality_at(point: Point) -> Quality:
    """The same, of a point that is there already."""
    return _quality(point.problem, point.weights.task * point.task_losses, point.predictions)


def best_record(history: Sequence[Record]) -> Record | None:
    """The first of the lowest validation loss; None where nothing was validated."""
    judged = [record for record in history if record.validation_loss is not None]
    return min(judged, key=lambda record: record.validation_loss or 0.0, default=None)


def _quality(problem: BilevelProblem, losses: Tensor, outputs: Tensor) -> Quality:
    targets = problem.tasks.query.targets
    right = None if targets.is_floating_point() else float(accuracy(outputs, targets).mean())
    return Quality(float(losses.mean()), right)

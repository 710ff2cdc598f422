"""Meta-training: what a trainer and a fit are. Retraining without an item is a fit with its weight at zero."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from metafluence.bilevel import BilevelProblem, Point
from metafluence.errors import InputError
from metafluence.networks import accuracy
from metafluence.registry import Component
from metafluence.runtime import join_rows
from metafluence.tasks import TaskSet, Weights

if TYPE_CHECKING:  # a run is made of gradients that this file takes
    from metafluence.training.run import TrainingRun


@dataclass(frozen=True)
class Record:
    """One step of meta-training.

    loss (nats), accuracy: means over the tasks of the step before it was made; accuracy is None for real targets.
    gradient_norm: of the gradient that the step followed. learning_rate: of the step, if it has one.
    validation_loss, validation_accuracy: means over the validation tasks after the step; None if not computed.
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
        """The validation as text; empty if there was none."""
        if self.validation_loss is None:
            return ""
        share = "" if self.validation_accuracy is None else f" acc {self.validation_accuracy:.2f}"
        return f"validation {self.validation_loss:.3g}{share}"


Progress = Callable[[int, int, Record], None]
"""Called after each step with the steps done, the maximum number of steps, and the step's record."""


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
    """[k, 2, P]: the meta-parameters of each, and where its last step was taken. `like` [P]: shape and type if none."""
    pairs = [torch.stack([c.meta, c.taken_at]) for c in checkpoints]
    return torch.stack(pairs) if pairs else like.detach().new_empty(0, 2, like.numel())


@dataclass(frozen=True)
class Fit:
    """λ* and how it was reached.

    gradient_norm: ‖∇F‖ at `meta`. converged: it is below the trainer's tolerance. products: Hessian products used.
    steps: their number. history: a record of each. best_step: the step with the best validation, whose parameters are
    `meta`; None without validation (`meta` is then the last). run: the recorded steps, if the trainer records them.
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
    """Minimises F. A frozen dataclass: its fields are its configuration.

    Example:
        >>> from metafluence.testing.worlds import world
        >>> from metafluence_plugins.trainers.newton import Newton
        >>> fit = Newton(tolerance=1e-8).fit(world(0).problem)
        >>> fit.converged, fit.gradient_norm < 1e-8
        (True, True)
    """

    @property
    def needs_validation(self) -> bool:
        """Whether `fit` evaluates steps on validation tasks and needs some."""
        return False

    @property
    def records(self) -> bool:
        """Whether `fit` records its run in `Fit.run`."""
        return False

    def recording(self) -> Trainer:
        """The same trainer, which records its run. Raises InputError if its fits are no runs that can be replayed."""
        raise InputError(
            f"{type(self).__name__.lower()} records no run to replay. Give a trainer of minibatches, such as adam, or "
            "compare with minima instead: `truth: {kind: minimum}`."
        )

    @abstractmethod
    def fit(
        self,
        problem: BilevelProblem,
        weights: Weights | None = None,
        init: Tensor | None = None,
        generator: torch.Generator | None = None,
        progress: Progress | None = None,
        validation: TaskSet | BilevelProblem | None = None,
        folder: str | Path | None = None,
    ) -> Fit:
        """Fit from `init` [P] (a warm start), or from fresh meta-parameters drawn from `generator`.

        validation: tasks to evaluate steps on. folder: where a long fit stores its state, so that an interrupted fit
        resumes with identical results; trainers of few steps may ignore it.
        """

    def near(self, problem: BilevelProblem, meta: Tensor, fits: int) -> Shared | None:
        """Precompute what `fits` refits warm-started at `meta` [P] can share. None if that would not pay off.

        The refits end in the same minimum up to the trainer's tolerance.
        """
        return None


@dataclass(frozen=True)
class Shared:
    """A trainer with work precomputed for fits from one start, and the seconds and products that this took."""

    trainer: Trainer
    seconds: float
    products: int


class Quality(NamedTuple):
    """Mean loss (nats) and accuracy over tasks and their query instances; accuracy is None for real targets."""

    loss: float
    accuracy: float | None


def loss_gradient(problem: BilevelProblem, meta: Tensor, weights: Weights | None = None) -> tuple[Quality, Tensor]:
    """Mean weighted loss and accuracy of the tasks at `meta` [P], and the total gradient of F there, [P].

    One forward and one backward pass, a few tasks at a time; nothing is kept for Hessian products.
    """
    weights = weights or Weights.ones(problem.tasks)
    meta = meta.detach()
    share = problem.share(meta, weights)
    found: list[Tensor] = []

    def own() -> Tensor:
        gradient = torch.zeros_like(meta)

        def parts() -> Iterator[tuple[Tensor, Tensor]]:
            for chunk in problem.gradient_chunks(meta, weights, share):
                gradient.add_(chunk.gradient("total"))
                yield chunk.losses() * chunk.weights.task, chunk.predictions()

        found.extend(join_rows(parts()))
        return gradient

    gradient = share.sum("loss gradient", own) + problem.l2 * meta
    losses, outputs = share.gather_each("losses", lambda: found)
    return _quality(problem, losses, outputs), gradient


def validate(problem: BilevelProblem, meta: Tensor) -> Quality:
    """Mean loss and accuracy of the tasks of `problem` at `meta` [P]."""
    meta, weights = meta.detach(), Weights.ones(problem.tasks)
    share = problem.share(meta, weights)

    def own() -> list[Tensor]:
        chunks = problem.gradient_chunks(meta, weights, share)
        return join_rows((chunk.losses(), chunk.predictions()) for chunk in chunks)

    losses, outputs = share.gather_each("validation", own)
    return _quality(problem, losses, outputs)


def quality_at(point: Point) -> Quality:
    """Mean weighted loss and accuracy of the tasks at an existing point."""
    return _quality(point.problem, point.weights.task * point.task_losses, point.predictions)


def best_record(history: Sequence[Record]) -> Record | None:
    """The first record with the lowest validation loss; None if nothing was validated."""
    judged = [record for record in history if record.validation_loss is not None]
    return min(judged, key=lambda record: record.validation_loss or 0.0, default=None)


def _quality(problem: BilevelProblem, losses: Tensor, outputs: Tensor) -> Quality:
    if problem.tasks.real:
        return Quality(float(losses.mean()), None)
    each = accuracy(outputs, problem.tasks.query.targets, Weights.ones(problem.tasks).query)
    return Quality(float(losses.mean()), float(each.mean()))

"""Attribution: methods that say what each item is worth, under one sign contract.

`scores[i, j]` is the predicted change of target j's outer loss when item i is removed: positive means that i helps.
`parameter_change` is always λ(after removal) − λ*.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from metafluence.bilevel import BilevelProblem, Jacobian, Point
from metafluence.errors import InputError
from metafluence.linalg import Solution, Solver
from metafluence.registry import Component
from metafluence.tasks import LEVELS, Level, Removal, TaskSet
from metafluence.training import Checkpoint, RetrainBank, TrainingRun

Units = Literal["loss_change", "rank_only"]


@dataclass(frozen=True)
class Context:
    """What a method may look at: λ* with all tasks adapted, randomness, and the retrain bank where there is one.

    level: the kind of items to be judged; those of level `support` and `query` are numbered as `Weights` does.
    checkpoints: of meta-training, the last one last. run: the recorded run that ended in λ*. strict: a solve that
    fails raises; else its status travels with the result.
    """

    point: Point
    level: Level = "task"
    generator: torch.Generator = field(default_factory=lambda: torch.Generator().manual_seed(0))
    bank: RetrainBank | None = None
    checkpoints: tuple[Checkpoint, ...] = ()
    strict: bool = True
    run: TrainingRun | None = None

    @property
    def problem(self) -> BilevelProblem:
        return self.point.problem

    @property
    def items(self) -> int:
        """How many items the level has."""
        return getattr(self.point.weights, self.level).numel()

    def singles(self) -> list[Removal]:
        """Every item on its own."""
        return [(i,) for i in range(self.items)]


class Targets:
    """What is judged: the losses of other tasks (validation tasks, say), each on its own or their mean.

    T targets; `gradients` is the total gradient of each, [P, T].
    """

    def __init__(self, problem: BilevelProblem, tasks: TaskSet, meta: Tensor, mean: bool = True) -> None:
        self.problem = problem.over(tasks)
        self.mean = mean
        self.point = self.problem.at(meta)

    def at(self, meta: Tensor) -> Targets:
        """The same targets at other meta-parameters [P]."""
        other = copy(self)
        other.point = self.problem.at(meta, init=self.point.adapted)
        return other

    def solving_with(self, inner_solver: Solver) -> Targets:
        """The same targets, their inner Hessians solved by another solver."""
        other = copy(self)
        other.problem = self.problem.solving_with(inner_solver)
        return other.at(self.point.meta)

    def gradients(self, jacobian: Jacobian = "total") -> Tensor:
        if self.mean:
            return self.point.partial_gradient(jacobian).unsqueeze(1) / len(self.problem.tasks)
        return self.point.task_gradients(jacobian)

    def losses(self, meta: Tensor | None = None) -> Tensor:
        """Losses [T] at `meta`, after adapting to the targets' support there; at λ* where it is None."""
        point = self.point if meta is None else self.problem.at(meta, init=self.point.adapted)
        return point.task_losses.mean().unsqueeze(0) if self.mean else point.task_losses


@dataclass(frozen=True)
class SolveReport:
    """How the solves behind a result went: products with the Hessian, largest residual, and a complaint if any.

    standard_error: the largest relative one, of solvers that sample.
    """

    products: int = 0
    residual: float = float("nan")
    converged: bool = True
    complaint: str = ""
    standard_error: float = float("nan")

    @classmethod
    def of(cls, solution: Solution, preparation: int = 0) -> SolveReport:
        return cls(
            solution.matvecs + preparation,
            float(solution.residual.max()),
            solution.converged,
            solution.complaint(),
            float("nan") if solution.standard_error is None else float(solution.standard_error.max()),
        )


@dataclass(frozen=True)
class Scores:
    """values [n, T] for n items and T targets; `units` says whether they are loss changes (nats) or ranks only.

    seconds: what they cost, for methods whose work was done earlier or elsewhere; else it is measured from outside.
    """

    values: Tensor
    level: Level
    units: Units
    solve: SolveReport = SolveReport()
    notes: tuple[str, ...] = ()
    seconds: float | None = None


@dataclass(frozen=True)
class ParameterChange:
    """values [P, s]: λ(after removal) − λ* for each of s removals."""

    values: Tensor
    removals: tuple[Removal, ...]
    solve: SolveReport = SolveReport()
    notes: tuple[str, ...] = ()


class AttributionMethod(Component, ABC):
    """A frozen dataclass whose fields are its configuration.

    levels: the kinds of items it can score. units: of its scores. edits: it also predicts parameters.
    retrains: its scores are exact retrainings, from the context's bank.
    """

    levels: ClassVar[frozenset[Level]] = frozenset({"task"})
    units: ClassVar[Units] = "loss_change"
    edits: ClassVar[bool] = False
    retrains: ClassVar[bool] = False

    @property
    def additive(self) -> bool:
        """What it says of a group is the sum of what it says of the group's items (first-order methods)."""
        return False

    @property
    def needs_checkpoints(self) -> bool:
        """It works on checkpoints of meta-training."""
        return False

    @property
    def needs_run(self) -> bool:
        """It works on a recorded run of meta-training."""
        return False

    @abstractmethod
    def prepare(self, context: Context) -> Any:
        """All work that depends on neither targets nor removals."""

    @abstractmethod
    def scores(self, state: Any, targets: Targets) -> Scores:
        """Score every item against every target."""

    def parameter_change(self, state: Any, removals: Sequence[Removal]) -> ParameterChange | None:
        """Predicted λ(removed) − λ* for each removal; None for methods that only score."""
        return None


def check_context(method: AttributionMethod, context: Context) -> None:
    """Raises InputError where the method cannot judge items of the context's level, or lacks checkpoints."""
    name = type(method).__name__
    if context.level not in method.levels:
        known = ", ".join(level for level in LEVELS if level in method.levels)
        raise InputError(f"{name} has nothing to say of items of level {context.level!r}; its levels are {known}.")
    if method.needs_checkpoints and not context.checkpoints:
        raise InputError(
            f"{name} works on checkpoints of meta-training and there are none. In a study, name a trainer that keeps "
            "them under `checkpoints` (sgd or adam); in Python, pass Context(checkpoints=fit.checkpoints)."
        )
    if method.needs_run and context.run is None:
        raise InputError(
            f"{name} works on a recorded run of meta-training and there is none. Meta-train with record: true (adam, "
            "sgd, ...); in Python, pass Context(run=fit.run) with the point at fit.meta."
        )


def attribute(method: AttributionMethod, context: Context, targets: Targets) -> Scores:
    """Score every item of the context's level against every target, in one call."""
    check_context(method, context)
    return method.scores(method.prepare(context), targets)

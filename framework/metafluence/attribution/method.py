"""Attribution: methods that say what each item is worth, under one sign contract.

`scores[i, j]` is the predicted change of target j's outer loss when item i is removed: positive means that i helps.
`parameter_change` is always λ(after removal) − λ*.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass, replace
from functools import wraps
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor

from metafluence.attribution.context import RECORD, Context
from metafluence.bilevel import BilevelProblem, Jacobian
from metafluence.errors import InputError
from metafluence.linalg import Solution, Solver
from metafluence.registry import Component
from metafluence.runtime import notebook_view
from metafluence.tasks import LEVELS, Level, Removal, TaskSet

Units = Literal["loss_change", "rank_only"]


class Targets:
    """The losses of other tasks, such as validation tasks: each task's (T = tasks) or their mean (T = 1)."""

    def __init__(self, problem: BilevelProblem, tasks: TaskSet, meta: Tensor, mean: bool = True) -> None:
        self.problem = problem.over(tasks)
        self.mean = mean
        self.point = self.problem.at(meta)

    def at(self, meta: Tensor) -> Targets:
        """The same targets at other meta-parameters [P]."""
        other = copy(self)
        other.point = self.point.near(meta)
        return other

    def solving_with(self, inner_solver: Solver) -> Targets:
        """The same targets, their inner Hessians solved by another solver."""
        other = copy(self)
        other.problem = self.problem.solving_with(inner_solver)
        other.point = other.problem.at(self.point.meta, init=self.point.adapted)
        return other

    @property
    def count(self) -> int:
        """T, the number of targets."""
        return 1 if self.mean else len(self.problem.tasks)

    def gradients(self, jacobian: Jacobian = "total") -> Tensor:
        """Total gradients, [P, T]."""
        if self.mean:
            return self.point.partial_gradient(jacobian).unsqueeze(1) / len(self.problem.tasks)
        return self.point.task_gradients(jacobian)

    def losses(self, meta: Tensor | None = None) -> Tensor:
        """Losses [T] at `meta`, after adapting to the targets' support there; at λ* where it is None."""
        point = self.point if meta is None else self.point.near(meta)
        return point.task_losses.mean().unsqueeze(0) if self.mean else point.task_losses


SHOWN = 5
"""Items of lowest and of highest score that a notebook shows."""


@dataclass(frozen=True)
class SolveReport:
    """How the solves behind a result went."""

    products: int = 0
    """Products with the total Hessian."""
    residual: float = float("nan")
    """The largest relative residual."""
    converged: bool = True
    complaint: str = ""
    """What failed, in a sentence; empty where nothing did."""
    standard_error: float = float("nan")
    """The largest relative one, of solvers that sample."""

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
    """Scores of all items of a level against all targets."""

    values: Tensor
    """Predicted change of each target's loss on removing each item, [items, T]: positive where the item helps."""
    level: Level
    units: Units
    """`loss_change` for nats, `rank_only` where sizes mean nothing."""
    solve: SolveReport = SolveReport()
    notes: tuple[str, ...] = ()
    """What a reader should know of the numbers, in sentences."""
    seconds: float | None = None
    """What they cost, where the work was done earlier or elsewhere; None where it can be measured from outside."""

    def _repr_html_(self) -> str:
        """For a notebook: the items of lowest and of highest mean score over the targets."""
        means = self.values.mean(dim=1)
        order = means.argsort().tolist()
        ends = order if len(order) <= 2 * SHOWN else [*order[:SHOWN], *order[-SHOWN:]]
        count, targets = self.values.shape
        title = f"Scores of {count} items at level {self.level} for {targets} target{'s' if targets != 1 else ''}"
        said = "predicted change of the loss on removal, in nats" if self.units == "loss_change" else "ranks only"
        shown = "" if ends == order else f" The {SHOWN} lowest and the {SHOWN} highest:"
        about = f"Mean over targets, {said}; an item of positive score helps.{shown}"
        sentences = [*self.notes, self.solve.complaint, about]
        return notebook_view(title, sentences, ("item", "score"), [(i, float(means[i])) for i in ends])


@dataclass(frozen=True)
class ParameterChange:
    """values [P, s]: λ(after removal) − λ* for each of s removals; λ(without) − λ(with) for candidates."""

    values: Tensor
    removals: tuple[Removal, ...]
    solve: SolveReport = SolveReport()
    notes: tuple[str, ...] = ()


class AttributionMethod(Component, ABC):
    """A frozen dataclass whose fields are its configuration.

    Whatever a subclass's `prepare` does, a context that it cannot serve is refused first, and what its `scores` returns
    is checked. A state that is the context, or has it as `context`, is scored only against targets at the same λ.

    Example:
        >>> from dataclasses import dataclass
        >>> import metafluence as mf
        >>> @dataclass(frozen=True)
        ... class LargestLoss(mf.AttributionMethod):
        ...     units = "rank_only"
        ...
        ...     def prepare(self, context):
        ...         return context
        ...
        ...     def scores(self, state, targets):
        ...         losses = state.point.item_losses(state.level)
        ...         return mf.Scores(-losses[:, None].expand(-1, targets.count), state.level, self.units)
        >>> LargestLoss().additive
        False
    """

    levels: ClassVar[frozenset[Level]] = frozenset({"task"})
    """The kinds of items that it can score."""
    units: ClassVar[Units] = "loss_change"
    """Of its scores."""
    edits: ClassVar[bool] = False
    """It also predicts parameters, by `parameter_change`."""
    retrains: ClassVar[bool] = False
    """Its scores are exact retrainings, from the context's bank."""
    needs_minimum: ClassVar[bool] = True
    """Its scores are derivatives at a minimum of the training objective; a note says where λ* is none."""
    differentiates_run: ClassVar[bool] = False
    """Its scores are the derivative of the context's recorded run, so that `run_trust` is a trial of them."""
    adds: ClassVar[bool] = False
    """It also scores candidates, which are no part of the fit (`Context.candidates`)."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "prepare" in cls.__dict__:
            cls.prepare = _checking_context(cls.prepare)
        if "scores" in cls.__dict__:
            cls.scores = _checking_scores(cls.scores)

    @property
    def additive(self) -> bool:
        """The effect of a group is the sum of its items' effects (first-order methods)."""
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

    def scores_by_level(self, context: Context, targets: Targets, levels: Sequence[Level]) -> dict[Level, Scores]:
        """Scores of the items of several levels, which stand in place of the context's; a method that has them all from
        one computation overrides this.
        """
        return {level: self.scores(self.prepare(replace(context, level=level)), targets) for level in levels}

    def parameter_change(self, state: Any, removals: Sequence[Removal]) -> ParameterChange | None:
        """Predicted λ(removed) − λ* for each removal; None for methods that only score."""
        return None


def _checking_context(prepare: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(prepare)
    def checked(self: AttributionMethod, context: Context) -> Any:
        check_context(self, context)
        return prepare(self, context)

    return checked


def _checking_scores(scores: Callable[..., Scores]) -> Callable[..., Scores]:
    @wraps(scores)
    def checked(self: AttributionMethod, state: Any, targets: Targets) -> Scores:
        context = state if isinstance(state, Context) else getattr(state, "context", None)
        if isinstance(context, Context):
            check_targets(context, targets)
        found = scores(self, state, targets)
        _check_scores(type(self).__name__, found, targets)
        return found

    return checked


def _check_scores(name: str, found: Any, targets: Targets) -> None:
    if not isinstance(found, Scores):
        raise InputError(f"{name} returned a {type(found).__name__} for scores. Return Scores(values, level, units).")
    values: Any = found.values
    if (
        not isinstance(values, Tensor)
        or values.ndim != 2
        or values.shape[1] != targets.count
        or not values.is_floating_point()
    ):
        raise InputError(
            f"{name} returned scores of shape {list(getattr(values, 'shape', ()))} and type "
            f"{getattr(values, 'dtype', type(values).__name__)}. Return a tensor of real ones of "
            f"shape [items, {targets.count}]: a column for each target."
        )
    if found.units not in get_args(Units):
        raise InputError(
            f"{name} returned scores in units {found.units!r}. Set units to one of {', '.join(get_args(Units))}."
        )
    if found.solve.converged and not bool(values.isfinite().all()):
        count = int((~values.isfinite()).sum())
        raise InputError(
            f"{name} returned {count} scores that are not finite, and reported no failed solve. Return finite ones, or "
            "a solve report that says what failed."
        )


def check_targets(context: Context, targets: Targets) -> None:
    """Raises InputError for targets at other meta-parameters than the context's; along a run, of another number."""
    meta, theirs = context.point.meta, targets.point.meta
    if meta.shape != theirs.shape or (context.run is None and not torch.equal(meta, theirs)):
        raise InputError(
            "The targets are not at the context's meta-parameters. Make them with Targets(problem, tasks, "
            "context.point.meta)."
        )


def check_context(method: AttributionMethod, context: Context) -> None:
    """Raises InputError where the method does not support the context's level, or lacks checkpoints."""
    name = type(method).__name__
    if context.level not in method.levels:
        known = ", ".join(level for level in LEVELS if level in method.levels)
        raise InputError(f"{name} does not support level {context.level!r}; its levels are {known}. Give one of these.")
    if context.candidates is not None and not method.adds:
        why = (
            "a run that never drew a task says nothing of it" if method.needs_run else "it knows only items of the fit"
        )
        raise InputError(
            f"{name} cannot score candidates: {why}. Use influence, task-if, instance-if, direct-if, retrain, loss or "
            "gradient-similarity at a minimum."
        )
    if method.needs_checkpoints and not context.checkpoints:
        raise InputError(
            f"{name} works on checkpoints of meta-training and there are none. In a study, name a trainer that keeps "
            "them under `checkpoints` (sgd or adam); in Python, pass Context(checkpoints=fit.checkpoints)."
        )
    if method.needs_run and context.run is None:
        raise InputError(
            f"{name} works on a recorded run of meta-training and there is none. {RECORD} In Python, record a loop of "
            "your own (mf.record), or meta-train with record=True; pass Context(run=run) with the point at run.final."
        )

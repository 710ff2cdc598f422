"""What a method may look at."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from metafluence.bilevel import BilevelProblem, Point
from metafluence.progress import Observer
from metafluence.tasks import Level, Removal, TaskSet, check_level
from metafluence.training import Checkpoint, RetrainBank, TrainingRun

RECORD = "In a study, give a trainer of minibatches and compare with its run: `trainer: adam`, `truth: {kind: run}`."
"""How a study gets a recorded run."""


@dataclass(frozen=True)
class Context:
    """What a method may look at.

    Raises:
        InputError: for a level that there is not.
    """

    point: Point
    """λ* with all tasks adapted."""
    level: Level = "task"
    """The kind of items to be scored; those of level `support` and `query` are numbered as `Weights` does."""
    generator: torch.Generator = field(default_factory=lambda: torch.Generator().manual_seed(0))
    bank: RetrainBank | None = None
    """Exact retrainings about λ*."""
    checkpoints: tuple[Checkpoint, ...] = ()
    """Of meta-training, the last one last."""
    strict: bool = True
    """A solve that fails raises; else its status is in the result."""
    run: TrainingRun | None = None
    """The recorded run that ended in λ*."""
    observer: Observer = field(default_factory=Observer)
    """Is told how far long work has come."""
    folder: str | Path | None = None
    """Where long work is kept, to go on from after an interruption."""

    candidates: Point | None = None
    """Tasks at the same λ* that had no part in it. Where they are given, the items are theirs, and what is scored is
    having them: a score is the target's loss without the item minus that with it, as for an item of the fit."""

    def __post_init__(self) -> None:
        check_level(self.level)

    def adding(self, candidates: TaskSet) -> Context:
        """The same about tasks that λ* was not trained on: what would adding them do?

        Each is added with weight 1 to the sum F; δ, and the weights of the tasks that are there, stay. Raises
        InputError for tasks that the learner cannot use.
        """
        return replace(self, candidates=self.problem.over(candidates).at(self.point.meta))

    @property
    def scored(self) -> Point:
        """The point whose items are scored: that of the candidates, where there are any."""
        return self.point if self.candidates is None else self.candidates

    @property
    def problem(self) -> BilevelProblem:
        return self.point.problem

    @property
    def items(self) -> int:
        """How many items the level has."""
        return self.scored.problem.tasks.items(self.level)

    def singles(self) -> list[Removal]:
        """Every item on its own."""
        return [(i,) for i in range(self.items)]

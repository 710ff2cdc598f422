"""Whether a learner describes a loop: its gradient and step against the loop's."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from metafluence.bilevel import BilevelProblem
from metafluence.errors import InputError
from metafluence.learners import MetaLearner, NetworkLearner
from metafluence.tasks import TaskSet
from metafluence.training.loop_settings import distance, loop_gradient, rounding
from metafluence.training.loop_suspects import suspected
from metafluence.training.step_rules import StepRule, StepState


@dataclass(frozen=True)
class LoopCheck:
    """Compares steps of a loop with what the learner and the rule make of them.

    learner: as it was given. problem: of it, at tasks of the first step. scale: the loop's loss over the mean of the
    losses of a step's tasks.
    """

    learner: MetaLearner
    problem: BilevelProblem
    rule: StepRule

    def gradient(self, step: int, tasks: TaskSet, scale: float, meta: Tensor, theirs: Tensor) -> None:
        """Raises InputError where the gradient [P] of the loop, not clipped, is not the learner's at `meta` [P]."""
        problem = self.problem.over(tasks)
        ours = scale * loop_gradient(problem, meta)
        far = distance(ours, theirs)
        if far <= rounding(theirs):
            return
        raise InputError(
            f"At step {step} the gradient of the loop is not that of the learner that describes it: they differ by "
            f"{far:.1%} of its norm, most in {self._where(ours - theirs)}. "
            + suspected(self.learner, problem, scale, meta, ours, theirs)
        )

    def step(self, before: StepState, gradient: Tensor, rate: float, after: Tensor) -> None:
        """Raises InputError where the optimiser went from `before` to other meta-parameters than the rule, [P]."""
        ours = self.rule.step(before, gradient, rate).meta
        moved, missed = after - before.meta, ours - after
        tiny = 8 * torch.finfo(after.dtype).eps * after.abs().max()
        if float(missed.norm()) <= rounding(after) * float(moved.norm()) or bool(missed.abs().max() <= tiny):
            return
        raise InputError(
            f"At step {before.step + 1} the optimiser's step is not that of {self.rule}: they differ by "
            f"{float(missed.norm() / moved.norm()):.1%} of the step, most in {self._where(missed)}. Usually parameters "
            "are changed beside the step (clamped, averaged, normalised), or a parameter got no gradient for some "
            "steps. Record an optimiser that makes the whole step."
        )

    def _where(self, differing: Tensor) -> str:
        if not isinstance(self.learner, NetworkLearner):
            return f"meta-parameter {int(differing.abs().argmax())}"
        learner = self.problem.learner
        assert isinstance(learner, NetworkLearner)
        positions = learner.positions()
        return max(positions, key=lambda name: float(differing[positions[name].flatten()].norm()))

"""Whether a learner describes a loop: its gradient and step against the loop's."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from metafluence.bilevel import BilevelProblem
from metafluence.errors import InputError
from metafluence.learners import MetaLearner, NetworkLearner
from metafluence.tasks import TaskSet
from metafluence.training.loop_settings import distance, factor_of, loop_gradient, rounding
from metafluence.training.loop_suspects import suspected
from metafluence.training.step_rules import Rate, StepRule, StepState

NAMED = 4
"""How many parameters of a group a message names."""
NOISE = 1e3
"""How far a group's gradient may differ beside its own rounding, in units of the whole norm's precision."""


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
        if far > rounding(theirs):
            raise InputError(
                f"At step {step} the gradient of the loop is not that of the learner that describes it: they differ by "
                f"{far:.1%} of its norm, most in {self._where(ours - theirs)}. "
                + (self._factors(ours, theirs) or suspected(self.learner, problem, scale, meta, ours, theirs))
            )
        least = NOISE * torch.finfo(theirs.dtype).eps * float(theirs.norm())
        for said, _, where in self._groups(len(theirs)):
            missed, own = float((ours - theirs)[where].norm()), float(theirs[where].norm())
            if missed > rounding(theirs) * own + least:
                raise InputError(
                    f"At step {step} the gradient of the loop is not that of the learner that describes it for {said}: "
                    f"of norm {own:.3g} in the loop, it differs by {missed:.3g}. The rest agrees. Usually these "
                    "parameters are detached in the loop, or their gradient is scaled. Correct the learner or the loop."
                )

    def step(self, before: StepState, gradient: Tensor, rate: Rate, after: Tensor) -> None:
        """Raises InputError where the optimiser went from `before` to other meta-parameters than the rule, [P]."""
        ours = self.rule.step(before, gradient, rate).meta
        rates = rate if isinstance(rate, tuple) else (rate,)
        for (said, rule, where), own_rate in zip(self._groups(len(after)), rates, strict=True):
            moved, made, end = (after - before.meta)[where], (ours - before.meta)[where], after[where]
            missed = made - moved
            tiny = 8 * torch.finfo(after.dtype).eps * end.abs().max()
            if float(missed.norm()) <= rounding(after) * float(moved.norm()) or bool(missed.abs().max() <= tiny):
                continue
            factor = factor_of(made, moved, rounding(after))
            usual = (
                "Usually parameters are changed beside the step (clamped, averaged, normalised), or a parameter got no "
                "gradient for some steps. Give the recorder an optimiser that makes the whole step."
                if factor is None
                else f"They agree at the rate {factor * own_rate:.6g}, while the optimiser had {own_rate:.6g} as its "
                "step began. Set rates between steps, and change no parameters beside them."
            )
            differing = torch.zeros_like(after)
            differing[where] = missed
            raise InputError(
                f"At step {before.step + 1} the optimiser's step{said and f' of {said}'} is not that of {rule}: they "
                f"differ by {float(missed.norm() / moved.norm()):.1%} of the step, most in {self._where(differing)}. "
                + usual
            )

    def _groups(self, size: int) -> list[tuple[str, StepRule, Tensor]]:
        """What each group of parameters is called (nothing where there is one), its rule, and its places."""
        groups = self.rule.groups(size)
        if len(groups) == 1:
            return [("", *groups[0])]
        return [
            (f"group {number} of {len(groups)} ({self._names(where)})", rule, where)
            for number, (rule, where) in enumerate(groups, 1)
        ]

    def _factors(self, ours: Tensor, theirs: Tensor) -> str:
        """A sentence where the loop's gradient is a multiple of the learner's in each of several groups; else empty."""
        groups = self._groups(len(ours))
        factors = [factor_of(ours[where], theirs[where], rounding(theirs)) for _, _, where in groups]
        if None in factors or len({f"{factor:.4g}" for factor in factors}) < 2:
            return ""
        said = "; ".join(f"{factor:.4g} for {name}" for (name, *_), factor in zip(groups, factors, strict=True))
        return (
            f"They agree up to factors: {said}. The loop scales gradients of groups. Give the groups rates in "
            "proportion in place of that."
        )

    def _where(self, differing: Tensor) -> str:
        positions = self._positions()
        if not positions:
            return f"meta-parameter {int(differing.abs().argmax())}"
        return max(positions, key=lambda name: float(differing[positions[name].flatten()].norm()))

    def _names(self, where: Tensor) -> str:
        """The parameters at these places, by name as far as there is room."""
        inside = [name for name, places in self._positions().items() if bool(torch.isin(places, where).any())]
        more = f" and {len(inside) - NAMED} more" if len(inside) > NAMED else ""
        return ", ".join(inside[:NAMED]) + more if inside else f"{len(where)} meta-parameters"

    def _positions(self) -> dict[str, Tensor]:
        learner = self.problem.learner
        return learner.positions() if isinstance(learner, NetworkLearner) else {}

"""Records a meta-training run as its steps are made."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from torch import Tensor

from metafluence.bilevel import BilevelProblem
from metafluence.runtime import hash_tensor, warn
from metafluence.tasks import Weights
from metafluence.training.kept_states import KeptStates
from metafluence.training.run import TrainingRun, batch_gradient, load_run
from metafluence.training.step_rules import Rate, StepRule, StepState

GRADIENT_SHARE = 0.25
"""Of a problem's memory_gib, for the gradients of the run's steps; a sweep replays the steps that have no room."""

ELSEWHERE = 0.01
"""Of what a run moved, by which the same run made anew may miss its end without a warning."""


class RunRecorder:
    """Records the steps of a meta-training as they are made.

    every: steps between two states that are kept; the square root of the number of steps balances memory and replay.
    folder: where states are kept; in memory if it is None. Gradients are kept of as many steps as fit a quarter of the
    problem's `memory_gib`, so that derivatives of the run need not replay them; of all steps with `keep_all`.
    """

    def __init__(
        self,
        problem: BilevelProblem,
        weights: Weights,
        rule: StepRule,
        every: int,
        folder: str | Path | None = None,
        keep_all: bool = False,
    ) -> None:
        self._problem, self._weights, self._rule, self._every = problem, weights, rule, every
        self._folder = None if folder is None else Path(folder)
        self._states, self._keep_all = KeptStates(self._folder), keep_all
        self._batches: list[Tensor] = []
        self._rates: list[Rate] = []
        self._last: StepState | None = None
        self._peaks = torch.zeros(problem.size, dtype=problem.tasks.dtype, device=problem.tasks.device)
        self._room = int(GRADIENT_SHARE * problem.memory_gib * 2**30 / (problem.size * self._peaks.element_size()))
        self._gradients: list[Tensor] = []  # since the last state that is kept, without a gap

    def resume(self, step: int) -> None:
        """Take up a recording in the folder after `step` steps."""
        if self._folder is None or not step:
            return
        run = load_run(self._folder, self._problem)
        self._batches, self._rates, self._peaks = list(run.batches[:step]), list(run.rates[:step]), run.peaks
        self._states = run.states
        start = self._start()
        self._gradients = list(run.states.gradients(start, self._peaks.device)[: step - start])

    def go_on(self, run: TrainingRun) -> None:
        """Take up this run, whose last state is kept, where it ends."""
        self._batches, self._rates, self._peaks = list(run.batches), list(run.rates), run.peaks
        self._states = run.states

    def start(self, state: StepState) -> None:
        """Keep the state before the first step."""
        digest = hashlib.sha256(f"{self._problem.fingerprint()} {self._weights.fingerprint()} {self._rule!r}".encode())
        for part in state.parts:
            hash_tensor(digest, part)
        self._states = KeptStates(self._folder, digest.hexdigest()[:16])
        self._states.put(state)

    def record(self, batch: Tensor, rate: Rate, data: Tensor, after: StepState) -> None:
        """Add a step: its tasks' numbers [b], its rate or rates, its gradient without l2 [P] and the state after it."""
        start = self._start()
        if (self._keep_all or after.step <= self._room) and len(self._gradients) == len(self._batches) - start:
            self._gradients.append(data)
        self._batches.append(batch.cpu())
        self._rates.append(rate)
        self._peaks = torch.maximum(self._peaks, data.abs())
        self._last = after
        if after.step % self._every == 0:
            self._states.put(after)
            self._states.put_gradients(start, self._gradients)
            self._gradients = []

    def run(self, steps: int | None = None) -> TrainingRun:
        """The run so far; its first `steps` steps alone if they are given."""
        steps = len(self._batches) if steps is None else steps
        if self._last is not None:
            self._states.put(self._last)
            self._states.put_gradients(self._start(), self._gradients)
        batches, rates = tuple(self._batches[:steps]), tuple(self._rates[:steps])
        parts = (self._problem, self._weights, self._rule, batches, rates, self._states, self._every, self._peaks)
        return TrainingRun(*parts)

    def save(self) -> None:
        """Write what is recorded to the folder, if there is one."""
        if self._folder is not None:
            self.run().save(self._folder)

    def _start(self) -> int:
        """The step of the last state that is kept."""
        return len(self._batches) - len(self._batches) % self._every


def remade_run(run: TrainingRun, folder: str | Path | None = None) -> TrainingRun:
    """A run from the same start with the same batches and rates, whose replays give its very bits.

    That of a loop of one's own does not: its gradients were rounded otherwise, and in single precision such differences
    may grow. Costs the steps of the run. folder: where it is kept, for `load_run`; in memory if it is None. Warns where
    it ends elsewhere than the run, by more than a hundredth of what that moved.
    """
    made = made_anew(run, folder)
    missed = missed_end(run, made)
    if missed:
        warn(missed)
    return made


def made_anew(run: TrainingRun, folder: str | Path | None = None) -> TrainingRun:
    """As `remade_run`, wherever it ends."""
    recorder = RunRecorder(run.problem, run.weights, run.rule, run.every, folder)
    state = run.state(0)
    recorder.start(state)
    for batch, rate in zip(run.batches, run.rates, strict=True):
        _, data, gradient = batch_gradient(run.problem, run.weights, batch, state.meta)
        state = run.rule.step(state, gradient, rate)
        recorder.record(batch, rate, data, state)
    recorder.save()
    return recorder.run()


def missed_end(run: TrainingRun, made: TrainingRun) -> str:
    """A sentence where a run that was made anew ends elsewhere than the recorded one; else empty.

    Parameters without effect do not count.
    """
    missed, moved = (float((end * run.alive).norm()) for end in (made.final - run.final, run.final - run.state(0).meta))
    if missed <= ELSEWHERE * moved:
        return ""
    return (
        f"The run that was made anew misses the recorded one's end by {missed / moved:.1%} of what that moved. In "
        "single precision rounding may have grown; in double precision the loop did something, at steps that were "
        "not checked, that its description does not say (evaluation mode, clipping, another loss or batch): record it "
        "with check_every=1, which says at which step."
    )

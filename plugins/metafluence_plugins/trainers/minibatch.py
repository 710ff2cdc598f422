"""Meta-training on minibatches of tasks: what `adam`, `sgd` and their like share."""

from __future__ import annotations

import hashlib
import math
import time
from abc import abstractmethod
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from metafluence import (
    BilevelProblem,
    Checkpoint,
    ConvergenceError,
    Count,
    Fit,
    InputError,
    NonNegative,
    Positive,
    Progress,
    Record,
    RunRecorder,
    StepRule,
    StepState,
    TaskSet,
    Trainer,
    TrainingState,
    Weights,
    Whole,
    batch_gradient,
    best_record,
    component_fingerprint,
    load_training,
    loss_gradient,
    save_training,
    validate,
)


@dataclass(frozen=True)
class Minibatch(Trainer):
    """Steps on minibatches of `batch` tasks; the objective is scaled to the mean over tasks.

    order: `random` draws each minibatch anew from all tasks; `epochs` goes through all tasks in a shuffled order, then
    through another, so that each is seen once in an epoch (its last minibatch may be smaller). weight_decay, clip: of
    the step, as in torch; clip is the longest norm that a gradient keeps. warmup: steps over which the learning rate
    rises from zero in a line; schedule: what it does then, to the last step (cosine ends near zero).
    validate_every: steps between two validations; the fit then is where validation was best. patience: validations
    without a better one after which it stops. checkpoints: how many are kept, evenly spaced, the last included.
    save_every: steps between two saved states, where there is a folder for them. record: keep the run in `Fit.run`,
    for influence through it; with a folder its states are kept there. record_after: steps before the recording; the run
    then is of the steps after them alone, and so are all its scores and replays.

    The gradient norm of the fit is the full objective's; converged if it is below `tolerance`, which minibatches rarely
    reach: the report says so.
    """

    steps: Count = 500
    batch: Count = 16
    learning_rate: Positive = 1e-2
    order: Literal["random", "epochs"] = "random"
    weight_decay: NonNegative = 0.0
    clip: Positive | None = None
    warmup: Whole = 0
    schedule: Literal["constant", "cosine"] = "constant"
    validate_every: Count | None = None
    patience: Count | None = None
    checkpoints: Whole = 5
    save_every: Count = 50
    tolerance: Annotated[float, Field(gt=0, le=float("inf"), allow_inf_nan=True)] = 1e-3
    record: bool = False
    record_after: Whole = 0

    def __post_init__(self) -> None:
        name = type(self).__name__.lower()
        if self.warmup >= self.steps:
            raise InputError(f"{name} warms up for {self.warmup} of {self.steps} steps. Give a warmup below steps.")
        if self.patience is not None and self.validate_every is None:
            raise InputError(f"{name}'s patience counts validations, and there are none. Give validate_every too.")
        if self.order not in ("random", "epochs"):
            raise InputError(f"{name}'s order is {self.order!r}; it may be random or epochs.")
        if self.record_after >= self.steps:
            raise InputError(
                f"{name} records after {self.record_after} of {self.steps} steps. Give a record_after below steps."
            )
        if self.record_after and self.validate_every is not None:
            raise InputError(
                f"{name} has record_after and validate_every: validation may pick a step before the recording. Leave "
                "one of them out."
            )
        assert self.rule  # which checks its own settings

    @property
    @abstractmethod
    def rule(self) -> StepRule:
        """What makes the steps."""

    @property
    def records(self) -> bool:
        return self.record

    def recording(self) -> Minibatch:
        return self if self.record else replace(self, record=True)

    @property
    def needs_validation(self) -> bool:
        return self.validate_every is not None

    def rate(self, step: int) -> float:
        """The learning rate of step 1, 2, ... `steps`."""
        if step <= self.warmup:
            return self.learning_rate * step / self.warmup
        if self.schedule == "constant":
            return self.learning_rate
        done = (step - 1 - self.warmup) / (self.steps - self.warmup)
        return self.learning_rate * (1 + math.cos(math.pi * done)) / 2

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
        """As in `Trainer`. Raises ConvergenceError where the loss stops being a number, StoreError where `folder` holds
        another fit.
        """
        started = time.perf_counter()
        weights = weights or Weights.ones(problem.tasks)
        judge = self._judge(problem, validation)
        draws = generator if generator is not None else torch.default_generator
        seed = str(draws.initial_seed())
        start = (problem.learner.init_meta(generator) if init is None else init).detach().clone()
        problem.check(start)
        file = None if folder is None else Path(folder) / "training.safetensors"
        identity = {} if file is None else self._identity(problem, weights, start, seed, judge)
        state = None if file is None else load_training(file, identity, start)
        if state is None:
            state = TrainingState(start, start.clone(), draws.get_state())
        draws.set_state(state.generator)
        recorder = self._recorder(problem, weights, folder, state)
        before = state.seconds - started
        while not self._done(state):
            if recorder is not None and state.step == self.record_after:
                recorder.start(StepState(0, self._state(state).parts))
            self._step(problem, weights, judge, draws, recorder, state)
            if file is not None and (state.step % self.save_every == 0 or self._done(state)):
                if recorder is not None and state.step > self.record_after:
                    recorder.save()
                state.generator, state.seconds = draws.get_state(), before + time.perf_counter()
                save_training(file, state, identity)
            if progress is not None:
                progress(state.step, self.steps, state.history[-1])
        best = best_record(state.history)
        final = state.meta if best is None else state.best
        norm = float(loss_gradient(problem, final, weights)[1].norm())
        return Fit(
            final,
            norm,
            norm <= self.tolerance,
            state.step,
            0,
            before + time.perf_counter(),
            self._path(problem, state, best),
            tuple(state.history),
            None if best is None else best.step,
            None if recorder is None else recorder.run(None if best is None else best.step),
        )

    def _step(
        self,
        problem: BilevelProblem,
        weights: Weights,
        judge: BilevelProblem | None,
        draws: torch.Generator,
        recorder: RunRecorder | None,
        state: TrainingState,
    ) -> None:
        """One step and all that is kept of it."""
        earlier, before = self._state(state), state.meta
        state.step += 1
        rate, chosen = self.rate(state.step), self._batch(state.step, len(problem.tasks), draws)
        found, data, gradient = batch_gradient(problem, weights, chosen, before)
        norm = float(gradient.norm())
        if not math.isfinite(found.loss + norm):
            raise ConvergenceError(
                f"At step {state.step} of {type(self).__name__.lower()} the loss is {found.loss} and the gradient's "
                f"norm {norm}. Lower the learning rate ({rate:.1e} there), give it a warmup, or raise l2."
            )
        after = self.rule.step(earlier, gradient, rate)
        state.meta, state.optimiser = after.meta, dict(zip(self.rule.moments, after.parts[1:], strict=True))
        if recorder is not None and state.step > self.record_after:
            recorder.record(chosen, rate, data, StepState(state.step - self.record_after, after.parts))
        record = Record(state.step, found.loss, found.accuracy, norm, rate)
        every = self.validate_every
        if judge is not None and every is not None and (state.step % every == 0 or state.step == self.steps):
            at = validate(judge, state.meta)
            record = Record(state.step, found.loss, found.accuracy, norm, rate, at.loss, at.accuracy)
        state.history.append(record)
        if best_record(state.history) is record:
            state.best = state.meta.clone()  # two names of one tensor cannot be kept in a file
        if state.step in {round((i + 1) * self.steps / self.checkpoints) for i in range(self.checkpoints)}:
            state.checkpoints.append(self._checkpoint(problem, state.checkpoints, state.step, state.meta, before))

    def _batch(self, step: int, count: int, draws: torch.Generator) -> Tensor:
        """The numbers of the tasks of step 1, 2, ..., in order."""
        size = min(self.batch, count)
        if self.order == "random":
            return torch.randperm(count, generator=draws)[:size].sort().values
        epoch, place = divmod(step - 1, -(-count // size))
        # From the seed and the epoch alone, so that a fit that goes on needs no more than its step.
        shuffled = torch.randperm(count, generator=torch.Generator().manual_seed(draws.initial_seed() + epoch))
        return shuffled[place * size : (place + 1) * size].sort().values

    def _state(self, state: TrainingState) -> StepState:
        """The rule's state; before the first step its moments are zero."""
        if not state.step:
            return self.rule.start(state.meta)
        return StepState(state.step, (state.meta, *(state.optimiser[name] for name in self.rule.moments)))

    def _recorder(
        self, problem: BilevelProblem, weights: Weights, folder: str | Path | None, state: TrainingState
    ) -> RunRecorder | None:
        if not self.record:
            return None
        rule, steps = self.rule.later(self.record_after), self.steps - self.record_after
        recorder = RunRecorder(problem, weights, rule, max(1, math.isqrt(steps)), folder)
        recorder.resume(max(0, state.step - self.record_after))
        return recorder

    def _done(self, state: TrainingState) -> bool:
        best = best_record(state.history)
        if state.step >= self.steps:
            return True
        if best is None or self.patience is None:
            return False
        later = [r for r in state.history[best.step :] if r.validation_loss is not None]
        return len(later) >= self.patience

    def _checkpoint(
        self, problem: BilevelProblem, earlier: list[Checkpoint], step: int, meta: Tensor, before: Tensor | None = None
    ) -> Checkpoint:
        since = earlier[-1].step if earlier else 0
        rate = fmean(self.rate(s) for s in range(since + 1, step + 1))
        return Checkpoint(step, rate / len(problem.tasks), meta, before)

    def _path(self, problem: BilevelProblem, state: TrainingState, best: Record | None) -> tuple[Checkpoint, ...]:
        """The checkpoints that lead to the fit, the last of which is the fit."""
        if best is None or not self.checkpoints:
            return tuple(state.checkpoints)
        earlier = [c for c in state.checkpoints if c.step < best.step]
        return (*earlier, self._checkpoint(problem, earlier, best.step, state.best))

    def _judge(self, problem: BilevelProblem, validation: TaskSet | BilevelProblem | None) -> BilevelProblem | None:
        if not self.needs_validation:
            return None
        if validation is None:
            raise InputError(
                f"validate_every={self.validate_every} asks for validation tasks. Give fit(validation=tasks), or leave "
                "validate_every out."
            )
        return problem.over(validation) if isinstance(validation, TaskSet) else validation

    def _identity(
        self, problem: BilevelProblem, weights: Weights, start: Tensor, seed: str, judge: BilevelProblem | None
    ) -> dict[str, str]:
        """What makes this fit another one than a stored one."""
        return {
            "problem": problem.fingerprint(),
            "weights": weights.fingerprint(),
            "trainer": component_fingerprint(self),
            "start": hashlib.sha256(start.cpu().numpy().tobytes()).hexdigest()[:16],
            "seed": seed,
            "validation": "none" if judge is None else judge.fingerprint(),
        }

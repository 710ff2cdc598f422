"""Records a training loop of one's own as a run of meta-training, and checks that a learner describes it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from metafluence.bilevel import BilevelProblem
from metafluence.errors import InputError
from metafluence.learners import MetaLearner
from metafluence.linalg import Solver
from metafluence.tasks import TaskSet, Weights
from metafluence.training.loop_check import LoopCheck
from metafluence.training.loop_parameters import places_of
from metafluence.training.loop_settings import distance, rounding
from metafluence.training.mixed_precision import check_types, refuse_autocast, refuse_scaler, refusing_autocast
from metafluence.training.recorded_tasks import RecordedTasks, as_tasks
from metafluence.training.run import TrainingRun
from metafluence.training.run_recorder import RunRecorder
from metafluence.training.step_rules import Rate, StepRule, StepState
from metafluence.training.torch_steps import moments_of, parameters_of, rates_of, settings
from metafluence.training.unfinished import begun_run, finished_run, first_steps, keep_progress

FIRST = 3
"""Steps from the first on that are checked, whatever `check_every` is; so are powers of two, and the last step."""


class LoopRecorder:
    """Records each step of a loop; `record` makes one. Its folder holds tasks, states and rates."""

    def __init__(
        self,
        folder: Path,
        learner: MetaLearner,
        optimisers: Sequence[torch.optim.Optimizer],
        rule: StepRule,
        reduction: Literal["mean", "sum"] | float,
        check_every: int,
        every: int,
        inner_solver: Solver,
        memory_gib: float,
        classes: Mapping[str, str] | None,
    ) -> None:
        self._folder, self._learner, self._optimisers, self._rule = folder, learner, tuple(optimisers), rule
        self._reduction, self._check_every, self._every, self._memory_gib = reduction, check_every, every, memory_gib
        self._solver, self._classes = inner_solver, classes
        self._settings, self._parameters = [*map(settings, optimisers)], parameters_of(optimisers)
        self._tasks = RecordedTasks(folder)
        self._weights: dict[int, float] = {}
        self._begun: dict[int, tuple[list[Tensor], list[float]]] = {}  # gradients and rates, by the optimiser's number
        self._made: tuple[Tensor, Rate] | None = None  # by all optimisers: the step's gradient [P] and rate
        self._inside, self._stopped = False, False
        self._last: Callable[[], None] | None = None  # checks the last step, where that was not done
        self._state: StepState | None = None
        self._hooks = [
            optimiser.register_step_pre_hook(partial(self._before_step, number))
            for number, optimiser in enumerate(self._optimisers)
        ]
        self._raw: dict[int, Tensor] = {}  # gradients before they are clipped, by the parameter's number
        if rule.clip is not None:
            for number, p in enumerate(self._parameters):
                self._hooks.append(p.register_post_accumulate_grad_hook(partial(self._keep_raw, number)))

    @contextmanager
    def step(self, batch: Any) -> Iterator[None]:
        """Around one step of the loop.

        batch: the tasks of the step: a `TaskSet`, or a list of (support_x, support_y, query_x, query_y); after these
            four, if images are to be scored, their names: one for each support and for each query instance.

        Raises:
            InputError: the loop does something else than the learner and the optimiser's rule; the message says how far
                off it is, where, and what usually is behind it. Or no step was made, or parameters were changed between
                steps, or the tasks cannot be used.
        """
        if self._stopped:
            raise InputError(
                "This recorder has stopped: after finish(), or after an error within a step. Its steps before that are "
                "kept: make them a run with recorder.finish(), or go on from a checkpoint with "
                "mf.record(..., resume=True)."
            )
        try:
            device = self._parameters[0].device.type
            refuse_autocast(self.steps + 1, device)
            tasks, named = as_tasks(batch, self.steps + 1, self._classes)
            before = self._start(tasks) if self._state is None else self._state
            if not torch.equal(self._meta(), before.meta):
                raise InputError(
                    f"Parameters were changed between steps {self.steps} and {self.steps + 1}. Make every step within "
                    "recorder.step(batch), and change nothing beside it."
                )
            first = self._made is None  # of this recorder
            self._made, self._inside = None, True
            self._begun.clear()
            self._raw.clear()
            with refusing_autocast(self.steps + 1, device) if first else nullcontext():
                yield
            self._inside = False
            self._note(before, tasks, named)
        except BaseException:
            self._stop()
            raise

    def _note(self, before: StepState, tasks: TaskSet, named: bool) -> None:
        """Keep what the step was."""
        if self._made is None:
            most = f"Only {len(self._begun)} of {len(self._optimisers)} optimisers made"
            raise InputError(
                f"{most if self._begun else 'No optimiser.step() was made for'} step {self.steps + 1}. Put what makes "
                "one step within one recorder.step(batch), with all of its tasks as the batch. A GradScaler skips "
                "steps whose gradients overflow: train without it."
            )
        gradient, rate = self._made
        numbers, scale = self._tasks.add(tasks, named), self._scale(len(tasks))
        if self._tasks.differ and self._check.problem.learner.mixes_instances:
            raise InputError(
                "Tasks of this loop differ in numbers of instances, and its network mixes instances (batch norm in "
                "training mode), so that padding would change it. Give it tasks of one size, or use group norm."
            )
        self._weigh(numbers, scale)
        after = StepState(before.step + 1, (self._meta(), *(self._flat(part) for part in self._moments())))
        self._last = partial(self._check_step, tasks, scale, before, gradient, rate, after)
        power_of_two = after.step & (after.step - 1) == 0
        if after.step <= FIRST or power_of_two or after.step % self._check_every == 0:
            self._last()
            self._last = None
        self._runs.record(numbers, rate, gradient, after)
        self._state = after
        if after.step % self._every == 0:
            self._tasks.write()
            keep_progress(self._folder, self._runs.run(), self._weights)

    def _check_step(
        self, tasks: TaskSet, scale: float, before: StepState, gradient: Tensor, rate: Rate, after: StepState
    ) -> None:
        self._check.gradient(after.step, tasks, scale, before.meta, gradient)
        self._check.step(before, gradient, rate, after.meta)

    def _stop(self) -> None:
        for hook in self._hooks:
            hook.remove()
        self._stopped = True

    @property
    def steps(self) -> int:
        """How many steps are recorded."""
        return 0 if self._state is None else self._state.step

    def finish(self) -> TrainingRun:
        """The run, which methods and replays take; it is kept in the folder for `load_recording`.

        Raises InputError where nothing was recorded, and where the last step is not what the learner describes.
        """
        self._stop()
        if not self.steps:
            raise InputError("Nothing was recorded. Put the steps of the loop within recorder.step(batch).")
        if self._last is not None:
            self._last()
        self._tasks.write()
        keep_progress(self._folder, self._runs.run(), self._weights)
        device = self._check.problem.tasks.device
        return finished_run(self._folder, self._learner, self._solver, self._memory_gib, device)

    def resume(self) -> None:
        """Go on after the kept step that the loop is at.

        Raises InputError where it is at none, or has another optimiser, `clip` or `every`; StoreError where what is
        kept is of another learner.
        """
        try:
            self._resume()
        except BaseException:
            self._stop()
            raise

    def _resume(self) -> None:
        device = self._parameters[0].device
        run, weights = begun_run(self._folder, self._learner, self._solver, self._memory_gib, device)
        if run.every != self._every:
            raise InputError(f"every is {self._every}, and was {run.every} in {self._folder}. Give every={run.every}.")
        self._place(run.problem)
        self._state = self._kept_state(run)
        had = run.rule.later(self._state.step)
        if self._rule != had:
            raise InputError(
                f"The loop has {self._rule}, and had {had}. Give the optimiser, and clip, as they were, and each group "
                "its parameters."
            )
        self._rule = run.rule
        self._bind(run.problem)
        run, weights = first_steps(run, self._state.step, weights, self._folder)
        self._tasks.resume()
        self._weights = dict(enumerate(weights.tolist()))
        self._runs.go_on(run)

    def _kept_state(self, run: TrainingRun) -> StepState:
        """The last kept state that is the loop's own now."""
        steps = range(run.every, run.steps + 1, run.every)
        ours = (self._meta(), *(self._flat(part) for part in self._moments()))
        for step in reversed(steps):
            state = run.states.get(step, ours[0].device)
            if len(state.parts) == len(ours) and all(map(torch.equal, state.parts, ours)):
                return state
        raise InputError(
            f"The loop is at none of the steps whose states are kept in {self._folder}; the last of these are "
            f"{', '.join(map(str, steps[-3:]))}. Give the model and the optimiser what the loop saved "
            "after one of these, and then call mf.record."
        )

    def _start(self, tasks: TaskSet) -> StepState:
        """At the first step: bind the learner, find parameters in λ, and keep the state."""
        check_types({p.dtype for p in self._parameters} | {tasks.dtype})
        problem = BilevelProblem(self._learner, tasks, 0.0, self._solver, self._memory_gib)
        self._place(problem)
        self._bind(problem)
        self._state = StepState(0, (self._meta(), *(self._flat(part) for part in self._moments())))
        self._runs.start(self._state)
        return self._state

    def _place(self, problem: BilevelProblem) -> None:
        """Find the loop's parameters in λ, and bring the rule's groups into its order."""
        self._places = places_of(self._learner, problem, self._parameters)
        self._rule = self._rule.ordered(self._places)

    def _bind(self, problem: BilevelProblem) -> None:
        """problem: of the learner, on the tasks of the first step."""
        self._check = LoopCheck(self._learner, problem, self._rule)
        weights = Weights.ones(problem.tasks)
        self._runs = RunRecorder(problem, weights, self._rule, self._every, self._folder, keep_all=True)

    def _before_step(self, number: int, optimiser: torch.optim.Optimizer, args: tuple[Any, ...], kwargs: Any) -> None:
        """Note the gradients and rates of the optimiser of this number."""
        if not self._inside:
            raise InputError("optimiser.step() was called outside of recorder.step(batch). Put it within.")
        if number in self._begun:
            raise InputError("optimiser.step() was called twice within recorder.step(batch). Give each step its own.")
        if any(callable(part) for part in (*args, *kwargs.values())):
            raise InputError("optimiser.step(closure) cannot be recorded. Call backward() and then optimiser.step().")
        if settings(optimiser) != self._settings[number]:
            raise InputError(
                "Settings of the optimiser other than its rates, or its parameters, were changed since the first "
                "step; a recorded run has one step rule. Leave them as they are and schedule rates alone (OneCycleLR "
                "and CyclicLR: cycle_momentum=False)."
            )
        refuse_scaler(optimiser)
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in parameters_of([optimiser])]
        if not all(bool(gradient.isfinite().all()) for gradient in gradients):
            raise InputError(
                f"At step {self.steps + 1} the gradient of the loop is not finite. Its training has diverged. Give "
                "it lower rates, or clip its gradient."
            )
        self._begun[number] = gradients, rates_of(optimiser)
        if len(self._begun) == len(self._optimisers):
            made = [self._begun[i] for i in range(len(self._optimisers))]
            gradient = self._unclipped(self._flat([part for parts, _ in made for part in parts]))
            rates = tuple(rate for _, own in made for rate in own)
            self._made = gradient, rates[0] if len(rates) == 1 else rates

    def _unclipped(self, gradient: Tensor) -> Tensor:
        """What the gradient [P] of a step was before the loop clipped it."""
        if self._rule.clip is None:
            return gradient
        raw = self._flat([self._raw.get(i, torch.zeros_like(p)) for i, p in enumerate(self._parameters)])
        if distance(self._rule.clipped(raw), gradient) > rounding(gradient):
            raise InputError(
                f"Between backward() and optimiser.step() gradients were changed otherwise than by clipping to the "
                f"norm {self._rule.clip:g}. Give the clip that the loop has, or none; scale the loss rather than "
                "gradients."
            )
        return raw

    def _keep_raw(self, number: int, parameter: Tensor) -> None:
        assert parameter.grad is not None
        self._raw[number] = parameter.grad.detach().clone()

    def _moments(self) -> list[list[Tensor]]:
        return [moments_of(self._optimisers, name) for name in self._rule.moments]

    def _meta(self) -> Tensor:
        return self._flat(self._parameters)

    def _flat(self, parts: list[Tensor]) -> Tensor:
        """A tensor for each parameter as one vector in the order of λ, [P]."""
        return torch.cat([part.detach().reshape(-1) for part in parts])[self._places]

    def _scale(self, size: int) -> float:
        """The loop's loss over the mean loss of a step's tasks."""
        return float(size if self._reduction == "sum" else 1.0 if self._reduction == "mean" else self._reduction)

    def _weigh(self, numbers: Tensor, scale: float) -> None:
        for number in numbers.tolist():
            if self._weights.setdefault(number, scale) != scale:
                raise InputError(
                    "A task is in steps of different numbers of tasks, and the loss is a sum, so it has no one weight. "
                    "Use batches of one size (drop_last), or the mean."
                )

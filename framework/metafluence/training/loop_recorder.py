"""Records a training loop of one's own as a run of meta-training, and checks that a learner describes it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from metafluence.bilevel import BilevelProblem
from metafluence.errors import InputError
from metafluence.learners import MetaLearner, NetworkLearner
from metafluence.linalg import Solver
from metafluence.tasks import TaskSet, Weights
from metafluence.training.loop_check import LoopCheck
from metafluence.training.loop_settings import distance, rounding
from metafluence.training.recorded_tasks import RecordedTasks, as_tasks
from metafluence.training.run import TrainingRun
from metafluence.training.run_recorder import RunRecorder
from metafluence.training.step_rules import AdamStep, StepRule, StepState
from metafluence.training.torch_steps import moments_of, parameters_of, rate_of, settings
from metafluence.training.unfinished import begun_run, finished_run, first_steps, keep_progress

FIRST = 3
"""Steps from the first on that are checked, whatever `check_every` is; so are powers of two, and the last step."""


class LoopRecorder:
    """Records each step of a loop; `record` makes one. Its folder holds tasks, states and rates."""

    def __init__(
        self,
        folder: Path,
        learner: MetaLearner,
        optimiser: torch.optim.Optimizer,
        rule: StepRule,
        reduction: Literal["mean", "sum"] | float,
        check_every: int,
        every: int,
        inner_solver: Solver,
        memory_gib: float,
        classes: Mapping[str, str] | None,
    ) -> None:
        self._folder, self._learner, self._optimiser, self._rule = folder, learner, optimiser, rule
        self._reduction, self._check_every, self._every, self._memory_gib = reduction, check_every, every, memory_gib
        self._solver, self._classes = inner_solver, classes
        self._settings, self._parameters = settings(optimiser), parameters_of(optimiser)
        self._tasks = RecordedTasks(folder)
        self._weights: dict[int, float] = {}
        self._made: tuple[Tensor, float] | None = None  # by the step within: its gradient [P] and rate
        self._inside, self._stopped = False, False
        self._last: Callable[[], None] | None = None  # checks the last step, where that was not done
        self._state: StepState | None = None
        self._hooks = [optimiser.register_step_pre_hook(self._before_step)]
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
            raise InputError("This recorder has stopped: after finish(), or after an error. Make a new one.")
        try:
            tasks, named = as_tasks(batch, self.steps + 1, self._classes)
            before = self._start(tasks) if self._state is None else self._state
            if not torch.equal(self._meta(), before.meta):
                raise InputError(
                    f"Parameters were changed between steps {self.steps} and {self.steps + 1}. Make every step within "
                    "recorder.step(batch), and change nothing beside it."
                )
            self._made, self._inside = None, True
            self._raw.clear()
            yield
            self._inside = False
            self._note(before, tasks, named)
        except BaseException:
            self._stop()
            raise

    def _note(self, before: StepState, tasks: TaskSet, named: bool) -> None:
        """Keep what the step was."""
        if self._made is None:
            raise InputError(
                f"No optimiser.step() was made for step {self.steps + 1}. Put what makes one step within one "
                "recorder.step(batch), with all of its tasks as the batch."
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
        self, tasks: TaskSet, scale: float, before: StepState, gradient: Tensor, rate: float, after: StepState
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
        given, self._rule = self._rule, run.rule
        self._bind(run.problem)
        self._state = self._kept_state(run)
        had = run.rule
        if isinstance(had, AdamStep):
            had = replace(had, begun=had.begun + self._state.step)
        if given != had:
            raise InputError(f"The loop has {given}, and had {had}. Give the optimiser, and clip, as they were.")
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
        types = {p.dtype for p in self._parameters} | {tasks.dtype}
        if len(types) > 1:
            raise InputError(f"Parameters and tasks are of {sorted(map(str, types))}. Give them one type.")
        self._bind(BilevelProblem(self._learner, tasks, 0.0, self._solver, self._memory_gib))
        self._state = StepState(0, (self._meta(), *(self._flat(part) for part in self._moments())))
        self._runs.start(self._state)
        return self._state

    def _bind(self, problem: BilevelProblem) -> None:
        """problem: of the learner, on the tasks of the first step."""
        self._places = _places(self._learner, problem, self._parameters)
        self._check = LoopCheck(self._learner, problem, self._rule)
        weights = Weights.ones(problem.tasks)
        self._runs = RunRecorder(problem, weights, self._rule, self._every, self._folder, keep_all=True)

    def _before_step(self, optimiser: torch.optim.Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if not self._inside:
            raise InputError("optimiser.step() was called outside of recorder.step(batch). Put it within.")
        if self._made is not None:
            raise InputError("optimiser.step() was called twice within recorder.step(batch). Give each step its own.")
        if any(callable(part) for part in (*args, *kwargs.values())):
            raise InputError("optimiser.step(closure) cannot be recorded. Call backward() and then optimiser.step().")
        if settings(optimiser) != self._settings:
            raise InputError(
                "Settings of the optimiser other than its rate were changed since the first step; a recorded run has "
                "one step rule. Schedule the rate alone (OneCycleLR and CyclicLR: cycle_momentum=False)."
            )
        gradient = self._flat([torch.zeros_like(p) if p.grad is None else p.grad for p in self._parameters])
        if not bool(gradient.isfinite().all()):
            raise InputError(
                f"At step {self.steps + 1} the gradient of the loop is not finite. Its training has diverged. Give "
                "it lower rates, or clip its gradient."
            )
        if self._rule.clip is not None:
            raw = self._flat([self._raw.get(i, torch.zeros_like(p)) for i, p in enumerate(self._parameters)])
            if distance(self._rule.clipped(raw), gradient) > rounding(gradient):
                raise InputError(
                    f"Between backward() and optimiser.step() gradients were changed otherwise than by clipping to the "
                    f"norm {self._rule.clip:g}. Give the clip that the loop has, or none; scale the loss rather than "
                    "gradients."
                )
            gradient = raw
        self._made = gradient, rate_of(optimiser)

    def _keep_raw(self, number: int, parameter: Tensor) -> None:
        assert parameter.grad is not None
        self._raw[number] = parameter.grad.detach().clone()

    def _moments(self) -> list[list[Tensor]]:
        return [moments_of(self._optimiser, self._parameters, name) for name in self._rule.moments]

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


def _places(learner: MetaLearner, problem: BilevelProblem, parameters: list[Tensor]) -> Tensor:
    """For each meta-parameter, where it is among the loop's parameters, flat and in order, [P].

    Parameters that are the learner's module's own are known by that; the others by their shapes, in the order of λ.
    Raises InputError where the loop trains more, less or other than the learner.
    """
    bound = problem.learner
    if not isinstance(bound, NetworkLearner):
        positions = {"meta-parameters": torch.arange(problem.size)}
    else:
        positions = bound.positions()
    module = getattr(learner, "backbone", None)
    own = {id(p): name for name, p in module.named_parameters()} if isinstance(module, nn.Module) else {}
    names = [own.get(id(p)) for p in parameters]
    left = [name for name in positions if name not in names]
    for number, p in enumerate(parameters):
        if names[number] is None and left:
            same = next((name for name in left if positions[name].shape == p.shape), left[0])
            names[number] = same
            left.remove(same)
    wrong = [f"{name} {list(positions[name].shape)} is not trained in the loop" for name in left]
    for number, name, p in zip(count(1), names, parameters, strict=False):
        if name is None or name not in positions:
            wrong.append(f"the optimiser's parameter {number} {list(p.shape)} is none of the learner's")
        elif positions[name].shape != p.shape:
            wrong.append(f"{name} is {list(positions[name].shape)}, the optimiser's parameter {number} {list(p.shape)}")
    if wrong:
        learns = (
            " A learned inner rate is known by its logarithm, with learn_rates=True (maml, one for each layer) or "
            "learn_rate=True (anil)."
        )
        raise InputError(
            f"The optimiser does not train what the learner has: {'; '.join(wrong[:8])}. Give the learner the loop's "
            "module, freeze what the loop does not train (requires_grad_(False)), and give the optimiser the "
            f"parameters in the module's order.{learns if any(p.numel() == 1 for p in parameters) else ''}"
        )
    order = torch.cat([positions[name].flatten() for name in names if name is not None])
    places = torch.empty_like(order)
    places[order] = torch.arange(len(order))
    return places.to(parameters[0].device)

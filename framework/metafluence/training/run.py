"""A recorded meta-training run, and its replay: the same batches and rates under other weights of items."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from metafluence.bilevel import BilevelProblem, Point
from metafluence.errors import ConvergenceError, InputError, StoreError
from metafluence.learners import NetworkLearner
from metafluence.runtime import check_identity, hash_tensor, load_tensors, repeatable, save_tensors, warn
from metafluence.tasks import WEIGHED, Level, Weights, known_origins
from metafluence.training.grouped_step import facts_of, rates_from, rule_from
from metafluence.training.kept_states import KeptStates
from metafluence.training.step_rules import Rate, StepRule, StepState
from metafluence.training.trainer import Quality, loss_gradient

FILE = "run.safetensors"
# A parameter's largest gradient of all steps, as a share of its layer's, in units of the precision; at or below it the
# gradient is rounding noise (measured for a bias before a norm: 1 to 100).
NOISE = 1e3


class BatchGradient(NamedTuple):
    """quality: of the batch's tasks. data [P]: 1/|B| Σ w_i D_λ L_O^i. total [P]: data + (δ/N) λ, which steps follow."""

    quality: Quality
    data: Tensor
    total: Tensor


def batch_gradient(problem: BilevelProblem, weights: Weights, batch: Tensor, meta: Tensor) -> BatchGradient:
    """The gradient of a step at `meta` [P] on the tasks numbered `batch` [b], for the mean over all N tasks."""
    repeatable(problem.tasks.device)
    quality, gradient = loss_gradient(problem.over(problem.tasks[batch]), meta, weights[batch])
    data = gradient / len(batch)
    return BatchGradient(quality, data, _with_l2(problem, data, meta))


def _with_l2(problem: BilevelProblem, data: Tensor, meta: Tensor) -> Tensor:
    return data + problem.l2 / len(problem.tasks) * meta.detach()


class RunStep(NamedTuple):
    """One step of a run: its number from 1 on, the state before it, the gradient [P] and rate, its tasks [b]."""

    number: int
    state: StepState
    gradient: Tensor
    rate: Rate
    batch: Tensor


@dataclass(frozen=True, repr=False)
class TrainingRun:
    """Steps that led to meta-parameters, so that they can be made again, under other weights too.

    weights: of the items in the run. rule: the optimiser. batches, rates: the task numbers [b] and the learning rate of
    each step. states: the states after some steps, the first and the last among them; every: steps between two of them.
    peaks [P]: each parameter's largest gradient of all steps, without the part of the l2 term. drift: how far a replay
    between two kept states may miss, as a share of what λ moved between them; 0 where it must give the same bits.
    """

    problem: BilevelProblem
    weights: Weights
    rule: StepRule
    batches: tuple[Tensor, ...]
    rates: tuple[Rate, ...]
    states: KeptStates
    every: int
    peaks: Tensor
    drift: float = 0.0

    def __repr__(self) -> str:
        return f"TrainingRun({self.steps} steps of {self.rule}, {len(self.problem.tasks)} tasks)"

    @property
    def steps(self) -> int:
        """How many steps the run has."""
        return len(self.batches)

    @cached_property
    def final(self) -> Tensor:
        """λ after the last step, [P]."""
        return self.state(self.steps).meta

    def state(self, step: int) -> StepState:
        """The state after `step` steps, from the last one kept before it."""
        kept = self._kept_before(step)
        state = self._kept(kept)
        return state if kept == step else self._advance(state, step, self.weights, self._gradients(kept))

    def group_rates(self) -> Tensor:
        """The learning rates of all steps, [steps, groups of parameters]."""
        groups = len(self.rule.groups(len(self.peaks)))
        return torch.tensor(self.rates, dtype=torch.float64).reshape(self.steps, groups)

    def rates_of(self, step: RunStep) -> Tensor:
        """The learning rate of each parameter in a step, [P]."""
        spread = torch.empty_like(self.peaks)
        own = step.rate if isinstance(step.rate, tuple) else (step.rate,)
        for (_, where), rate in zip(self.rule.groups(len(spread)), own, strict=True):
            spread[where] = rate
        return spread

    def segments(self) -> list[tuple[int, int]]:
        """(start, stop) of the steps between states that are kept, first to last."""
        starts = list(range(0, self.steps, self.every))
        return list(zip(starts, [*starts[1:], self.steps], strict=True))

    def in_memory(self) -> TrainingRun:
        """The same run with its states in memory."""
        return self.kept_in(KeptStates())

    def kept_in(self, kept: KeptStates) -> TrainingRun:
        """The same run with its states, without gradients, in another place."""
        for step in range(self.steps + 1):
            if step in self.states:
                kept.put(self._kept(step))
        return replace(self, states=kept)

    def replayed(self, start: int, stop: int) -> list[RunStep]:
        """The steps start + 1 to stop, made again from a kept state.

        Raises StoreError where they do not end where the run did (see `drift`), if that state is kept.
        """
        return self._made(start, stop, ())

    def recorded(self, start: int, stop: int) -> list[RunStep]:
        """The same steps from the gradients that were kept, which cost nothing; the others are made again."""
        return self._made(start, stop, self._gradients(start))

    def point_of(self, step: RunStep) -> Point:
        """The batch of a step at the λ before it, with the run's weights."""
        return self.problem.over(self.problem.tasks[step.batch]).at(step.state.meta, self.weights[step.batch])

    def _made(self, start: int, stop: int, gradients: Sequence[Tensor]) -> list[RunStep]:
        made, state = [], self._kept(start)
        for number in range(start, stop):
            step = self._step(number, state, self.weights, gradients[number - start : number - start + 1])
            made.append(step)
            state = self.rule.step(state, step.gradient, step.rate)
        if stop in self.states:
            self._check_end(start, state, self._kept(stop))
        return made

    def _check_end(self, start: int, ours: StepState, kept: StepState) -> None:
        """Raises StoreError where a replay from the state after `start` steps misses a kept state."""
        pairs = list(zip(ours.parts, kept.parts, strict=True))
        if self.drift:
            moved = float(((kept.meta - self._kept(start).meta) * self.alive).norm())
            missed = float(((ours.meta - kept.meta) * self.alive).norm())
            if missed > self.drift * moved:
                raise StoreError(
                    f"The replay of steps {start + 1} to {kept.step} misses the loop's end by {missed / moved:.1%} of "
                    "what the steps moved: differences in rounding grow that far in this run. mf.remade_run(run) makes "
                    "it anew, so that replays give its very bits; or train in float64."
                )
        elif not all(torch.equal(mine, theirs) for mine, theirs in pairs):
            furthest = max(float((mine - theirs).abs().max()) for mine, theirs in pairs)
            raise StoreError(
                f"The replay of steps {start + 1} to {kept.step} differs from the run by up to {furthest:.1e}. Replay "
                "on the device, with the number of threads and the versions that the run was made with."
            )

    def replay(self, weights: Weights | None = None) -> Tensor:
        """The λ [P] that the run ends in where items have these weights, all else the same; the run's own if None.

        Starts from the last state that is kept before the first batch with a task whose weights differ.
        """
        if weights is None:
            weights = self.weights
        self._check(weights)
        changed = torch.zeros(len(self.weights.task), dtype=torch.bool)
        for level in WEIGHED:
            differs = getattr(weights, level) != getattr(self.weights, level)
            changed |= differs.reshape(len(changed), -1).any(dim=1).cpu()
        first = next((t for t, batch in enumerate(self.batches) if bool(changed[batch].any())), None)
        if first is None:
            return self.final
        return self._advance(self._kept(self._kept_before(first)), self.steps, weights).meta

    def removing(self, level: Level, items: tuple[int, ...], weight: float = 0.0) -> Weights:
        """The run's weights with the weights of some items multiplied by `weight`."""
        return self.weights.scaled(level, items, weight)

    def drawn(self, level: Level) -> Tensor:
        """The numbers of the items that a step of the run saw, in order; without all others it is the same run."""
        tasks = torch.cat(self.batches).unique()
        if level in WEIGHED:
            return self.weights.items_of(level, tasks)
        origins = known_origins(self.problem.tasks.origins, level)
        pairs = origins.incidence(level).items()
        held = (of[torch.isin(inside // self.problem.tasks.each(inner), tasks)] for inner, (inside, of) in pairs)
        return torch.cat(list(held)).unique()

    def dead_parameters(self) -> dict[str, Tensor]:
        """Named parameters that have no effect on the loss, and where they lie in λ.

        A bias before a normalisation is one: its gradient is rounding noise, which optimisers like Adam blow up to
        whole steps. Found by gradients at rounding level of their layer's throughout the run.
        """
        learner = self.problem.learner
        if not isinstance(learner, NetworkLearner):
            return {}
        dead = {}
        for layer, parts in learner.network.layers().items():
            alone = not layer or len(parts) == 1  # with nothing of its layer to be compared with
            highest = float(self.peaks.max() if alone else max(self.peaks[where].max() for where in parts.values()))
            level = NOISE * torch.finfo(self.peaks.dtype).eps * highest
            dead |= {name: where for name, where in parts.items() if highest > 0 and self.peaks[where].max() <= level}
        return dead

    @cached_property
    def alive(self) -> Tensor:
        """One for every parameter that has an effect on the loss and zero for the others, [P]."""
        alive = torch.ones_like(self.peaks)
        for where in self.dead_parameters().values():
            alive[where] = 0.0
        return alive

    def fingerprint(self) -> str:
        """A hash of the problem, the weights, the steps, and where they start and end."""
        digest = hashlib.sha256(f"{self.problem.fingerprint()} {self.weights.fingerprint()} {self.rule!r}".encode())
        digest.update(repr(self.rates).encode())
        for tensor in (*self.batches, self.state(0).meta, self.final):
            hash_tensor(digest, tensor)
        return digest.hexdigest()[:16]

    def save(self, folder: str | Path) -> None:
        """Write all but the kept states and the problem to a folder, for `load_run`."""
        tensors = {
            "batches": torch.cat(self.batches) if self.batches else torch.zeros(0, dtype=torch.long),
            "sizes": torch.tensor([len(batch) for batch in self.batches], dtype=torch.long),
            "rates": torch.tensor(self.rates, dtype=torch.float64),
            "peaks": self.peaks,
            "task": self.weights.task,
            "support": self.weights.support,
            "query": self.weights.query,
        }
        facts = {"problem": self.problem.fingerprint(), "rule": facts_of(self.rule)}
        facts.update(l2=self.problem.l2, every=self.every, drift=self.drift, identity=self.states.identity)
        save_tensors(Path(folder) / FILE, tensors, facts)

    def _kept(self, step: int) -> StepState:
        """A kept state; made again from the one before it where its file is damaged."""
        try:
            return self.states.get(step, self.problem.tasks.device)
        except StoreError as error:
            if step == 0:
                raise StoreError(f"{error} It is where the run starts: meta-train again in another folder.") from error
            warn(f"{error} The steps that led there are made again.")
        state = self._advance(self._kept(self._kept_before(step - 1)), step, self.weights)
        self.states.put(state)
        return state

    def _kept_before(self, step: int) -> int:
        return step if step in self.states else step - step % self.every

    def _check(self, weights: Weights) -> None:
        for level in WEIGHED:
            ours, theirs = (tuple(getattr(w, level).shape) for w in (self.weights, weights))
            if ours != theirs:
                raise InputError(f"The run has {level} weights of shape {ours}; these have {theirs}.")

    def _gradients(self, start: int) -> tuple[Tensor, ...]:
        """What is kept of the gradients of the steps from `start` on, [P] each."""
        return self.states.gradients(start, self.problem.tasks.device).unbind()

    def _step(self, number: int, state: StepState, weights: Weights, known: Sequence[Tensor] = ()) -> RunStep:
        """One step; `known` holds its gradient without l2, or nothing."""
        batch = self.batches[number]
        data = known[0] if known else batch_gradient(self.problem, weights, batch, state.meta).data
        gradient = _with_l2(self.problem, data, state.meta)
        if not bool(gradient.isfinite().all()):
            raise ConvergenceError(f"At step {number + 1} of a replay the gradient is not finite.")
        return RunStep(number + 1, state, gradient, self.rates[number], batch)

    def _advance(self, state: StepState, stop: int, weights: Weights, gradients: Sequence[Tensor] = ()) -> StepState:
        start = state.step
        for number in range(start, stop):
            step = self._step(number, state, weights, gradients[number - start : number - start + 1])
            state = self.rule.step(state, step.gradient, step.rate)
        return state


def load_run(folder: str | Path, problem: BilevelProblem, steps: int | None = None) -> TrainingRun:
    """The run that was recorded in `folder`; its first `steps` steps if given, as where validation picked an earlier λ.

    Raises StoreError where there is none, one of another problem, or one of which states are missing.
    """
    folder = Path(folder)
    if not (folder / FILE).exists():
        raise StoreError(
            f"There is no run in {folder}. Check the path; meta-train with record=True and this folder, or record a "
            "loop of your own with mf.record. Of checkpoints alone, mf.load_checkpoints gives what can be had."
        )
    tensors, facts = load_tensors(folder / FILE)
    check_identity(folder, {"problem": facts["problem"]}, {"problem": problem.fingerprint()})
    device = problem.tasks.device
    run = TrainingRun(
        problem,
        Weights(*(tensors[level].to(device) for level in WEIGHED), origins=problem.tasks.origins),
        rule_from(facts["rule"]),
        tensors["batches"].split(tensors["sizes"].tolist())[:steps],
        rates_from(tensors["rates"])[:steps],
        KeptStates(folder, facts.get("identity", "")),
        facts["every"],
        tensors["peaks"].to(device),
        facts.get("drift", 0.0),
    )
    lost = next((start for start, _ in run.segments() if start not in run.states), None)
    if lost is not None:
        raise StoreError(f"The run in {folder} has lost its state after {lost} steps. Record it again.")
    return run

"""Exact retraining without items, and the bank that stores its fits."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from metafluence.bilevel import BilevelProblem
from metafluence.errors import ConvergenceError, InputError, RemovalError, SolverError
from metafluence.runtime import (
    NAMED,
    Executor,
    RemoteExecutor,
    Shelf,
    component_fingerprint,
    digest_of,
    folder_of,
    hash_tensor,
    warn,
)
from metafluence.tasks import Level, Removal, TaskSet, Weights, check_removals, join_tasks
from metafluence.training.proximal import NearModel, Proximal
from metafluence.training.run import TrainingRun
from metafluence.training.trainer import Fit, Shared, Trainer

Start = Literal["warm", "cold", "replay"]


@dataclass(frozen=True)
class Retrained:
    """meta [P, s]: λ after each of s removals, on the problem's device.

    converged [s] (bool), gradient_norm, seconds and products (with the Hessian) [s]: figures of each fit. reasons:
    why a fit without those items is impossible (for example a class without support), else empty; its meta and gradient
    norm are then NaN. shared_*: seconds and products of work done once for all fits; not part of their own figures.
    """

    meta: Tensor
    converged: Tensor
    gradient_norm: Tensor
    seconds: Tensor
    products: Tensor
    reasons: tuple[str, ...]
    shared_seconds: float = 0.0
    shared_products: int = 0

    def cost(self, which: Tensor | None = None) -> float:
        """Seconds of all fits, or of those in `which`, including all of the shared work."""
        return float((self.seconds if which is None else self.seconds[which]).sum()) + self.shared_seconds

    def complaint(self) -> str:
        """A sentence about the fits that failed; empty if none did."""
        bad = int((~self.converged).sum())
        refused = [reason for reason in self.reasons if reason]
        stopped = f"{bad - len(refused)} of {len(self.converged)} retrainings did not converge."
        if not refused:
            return stopped if bad else ""
        counted = f"{len(refused)} of {len(self.converged)} retrainings could not be made: {refused[0]}"
        return counted if bad == len(refused) else f"{stopped} {counted}"


class RetrainBank:
    """Fits with the weights of removed items at zero. Each is computed once and stored.

    start: `warm` from λ*; `cold` from the fit's own initial parameters, drawn anew from `seed`; `replay`, the very run
    that the fit recorded, with its start, batches and rates, under other weights; or `Proximal`, near the fit.
    store: a folder for the fits; work already there is reused if it answers the same question.
    progress: called with fits done and fits asked for. validation: tasks that the trainer judges its steps on, the
    same as in the fit. notice: called with a sentence about a failure that was recovered from (a worker died).
    expected: estimated total number of retrainings; decides whether precomputing shared work pays off. If not given,
    each call decides for its own. weights: base weights of all items in the full fit; ones if not given.
    """

    def __init__(
        self,
        problem: BilevelProblem,
        fit: Fit,
        trainer: Trainer,
        executor: Executor,
        store: str | Path | None = None,
        start: Start | Proximal = "warm",
        seed: int = 0,
        progress: Callable[[int, int], None] | None = None,
        validation: TaskSet | None = None,
        notice: Callable[[str], None] = warn,
        expected: int | None = None,
        weights: Weights | None = None,
    ) -> None:
        self._problem, self._trainer, self._executor = problem, trainer, executor
        self._run = fit.run if start == "replay" else None
        if start == "replay" and self._run is None:
            raise InputError("The fit has no recorded run to replay. Make it with record=True (adam, sgd, ...).")
        self.weights = weights or (Weights.ones(problem.tasks) if self._run is None else self._run.weights)
        self._init = fit.meta if start == "warm" else None
        self._proximal = start if isinstance(start, Proximal) else None
        self._near: NearModel | None = None
        self._fitted = fit.meta
        self._seed, self._progress, self._validation = seed, progress, validation
        self._shelf: Shelf | None = None
        self._notice, self._expected = notice, expected
        self._kept: dict[str, tuple[Tensor, dict[str, Any]]] = {}
        self._shared: Shared | None = None
        if store is not None:
            digest = hashlib.sha256()
            hash_tensor(digest, fit.meta)
            identity = {
                "problem": problem.fingerprint(),
                "fit": digest.hexdigest()[:16],
                "trainer": component_fingerprint(trainer),
                "start": f"cold, seed {seed}" if start == "cold" else str(start),
            }
            if validation is not None:
                identity["validation"] = validation.fingerprint()
            if weights is not None:
                identity["weights"] = weights.fingerprint()
            self._shelf = Shelf(folder_of(Path(store), identity, notice), digest_of(identity), notice)

    def leave_out(
        self, removals: Sequence[Removal], level: Level = "task", strict: bool = True, weight: float = 0.0
    ) -> Retrained:
        """λ without each removal, or with the weights of its items multiplied by `weight`.

        Raises ConvergenceError, after all fits are stored, where one did not converge or is impossible without these
        items. If not `strict`, such fits are marked instead.
        """
        removals = check_removals(removals, self._problem.tasks.items(level), level)
        keys = [_key(level, removal, weight) for removal in removals]
        retrained = self._found(dict(zip(keys, removals, strict=True)), keys, level, weight)
        if strict and not bool(retrained.converged.all()):
            bad = int((~retrained.converged).nonzero()[0])
            items = sorted(removals[bad])
            named = f"{items}" if len(items) <= NAMED else f"{items[:NAMED]} and {len(items) - NAMED} more"
            text = f"{retrained.complaint()} The first is that without {level} {named}"
            if not retrained.reasons[bad]:
                text += f": gradient norm {retrained.gradient_norm[bad]:.1e}"
                text += ". Give the trainer more steps, raise l2, or smooth the network"
            raise ConvergenceError(f"{text}.")
        return retrained

    def under(self, weights: Sequence[Weights]) -> Retrained:
        """λ under each of some weights of all items, made as `leave_out` makes it. Failed fits are marked."""
        keys = [f"weights-{one.fingerprint()}" for one in weights]
        return self._found(dict(zip(keys, weights, strict=True)), keys, "task", 0.0)

    def joining(self, tasks: TaskSet) -> RetrainBank:
        """A bank whose fits have other tasks beside the problem's, of weight zero; `under` fits with some of them.

        Its fits are not stored. Raises InputError for tasks of another shape, and for banks that do not retrain.
        """
        if self._run is not None:
            raise InputError(
                "A recorded run never drew these tasks, so they have no effect in its replays. Add them with a bank "
                "that retrains: RetrainBank(..., start='warm')."
            )
        if self._proximal is not None:
            raise InputError("A model near the fit is one of the fit's own tasks. Add tasks with start='warm'.")
        self._problem.over(tasks)
        joined = copy(self)
        theirs = tasks.to(device=self._problem.tasks.device)
        joined._problem = replace(self._problem, tasks=join_tasks(self._problem.tasks, theirs))
        none = Weights.ones(theirs).without("task", range(len(theirs)))
        joined.weights = self.weights.joined(none)
        joined._kept, joined._shared, joined._shelf = {}, None, None
        return joined

    def _found(self, asked: dict[str, Removal | Weights], keys: list[str], level: Level, weight: float) -> Retrained:
        """What the keys stand for, made where it is not kept."""
        self._load(keys)
        missing = {key: one for key, one in asked.items() if key not in self._kept}
        work = self._work(len(missing), level, weight)
        names = list(missing)
        found = self._executor.map(work, list(missing.values()), self._notice)
        for done, (index, fit) in enumerate(found, start=1):
            self._keep(names[index], missing[names[index]], level, fit)
            if self._progress is not None:
                self._progress(len(keys) - len(missing) + done, len(keys))
        facts = [self._kept[key][1] for key in keys]

        def column(name: str) -> Tensor:
            return torch.tensor([f[name] for f in facts], dtype=torch.float64)

        return Retrained(
            torch.stack([self._kept[key][0] for key in keys], dim=1).to(self._problem.tasks.device),
            column("converged").bool(),
            column("gradient_norm"),
            column("seconds"),
            column("products"),
            tuple(f.get("reason", "") for f in facts),
            max((f.get("shared_seconds", 0.0) for f in facts), default=0.0),
            max((f.get("shared_products", 0) for f in facts), default=0),
        )

    def _work(self, fits: int, level: Level, weight: float) -> Callable[[Removal | Weights], Fit | str]:
        """What makes a fit without a removal, or under other weights."""
        if self._run is not None:
            return _Replay(self._sent(self._run, fits), level, weight)
        if self._proximal is not None:
            self._near = self._near or self._proximal.near(self._problem, self._fitted, self.weights)
            return _Near(self._near, level, weight)
        trainer = self._trainer_of(fits)
        return _Refit(self._problem, trainer, self._init, self._seed, level, weight, self._validation, self.weights)

    def _sent(self, run: TrainingRun, fits: int) -> TrainingRun:
        """The run as the executor's workers can read it, after a check that it is made again here bit by bit."""
        if fits:
            run.replayed(*run.segments()[-1])
        elsewhere = isinstance(self._executor, RemoteExecutor) and self._executor.elsewhere
        return run.in_memory() if fits and elsewhere else run

    def _trainer_of(self, fits: int) -> Trainer:
        """The trainer for `fits` more fits; for warm starts one with precomputed shared work, if that pays off."""
        if self._shared is None and self._init is not None and fits:
            self._shared = self._trainer.near(self._problem, self._init, self._expected or fits)
        return self._trainer if self._shared is None else self._shared.trainer

    def _load(self, keys: list[str]) -> None:
        if self._shelf is None:
            return
        for key in keys:
            found = self._shelf.find(key) if key not in self._kept else None
            if found is not None:
                tensors, facts = found
                self._kept[key] = (tensors["meta"], facts)

    def _keep(self, key: str, removal: Removal | Weights, level: Level, found: Fit | str) -> None:
        if isinstance(found, str):
            nothing = torch.full((self._problem.size,), torch.nan, dtype=self._problem.tasks.dtype)
            fit, reason = Fit(nothing, float("nan"), False, 0, 0, 0.0), found
        else:
            fit, reason = found, ""
        facts = {
            "level": level,
            "items": [] if isinstance(removal, Weights) else sorted(removal),
            "gradient_norm": fit.gradient_norm,
            "converged": fit.converged,
            "steps": fit.steps,
            "seconds": fit.seconds,
            "products": fit.products,
            "reason": reason,
        }
        if self._shared is not None:
            facts |= {"shared_seconds": self._shared.seconds, "shared_products": self._shared.products}
        self._kept[key] = (fit.meta.cpu(), facts)
        if self._shelf is not None:
            self._shelf.keep(key, {"meta": fit.meta}, facts)


@dataclass(frozen=True)
class _Refit:
    """One fit without some items; a class, so that it can be pickled."""

    problem: BilevelProblem
    trainer: Trainer
    init: Tensor | None
    seed: int
    level: Level
    weight: float
    validation: TaskSet | None
    weights: Weights

    def __call__(self, removal: Removal | Weights) -> Fit | str:
        """The fit, or the reason why there is none without these items."""
        weights = _changed(self.weights, self.level, removal, self.weight)
        generator = torch.Generator().manual_seed(self.seed)
        try:
            fit = self.trainer.fit(self.problem, weights, self.init, generator, validation=self.validation)
            return replace(fit, run=None)  # not used, and large to send back from other processes
        except (RemovalError, SolverError) as error:
            return str(error)


@dataclass(frozen=True)
class _Replay:
    """One replay of a run with other weights of some items; a class, so that it can be pickled."""

    run: TrainingRun
    level: Level
    weight: float

    def __call__(self, removal: Removal | Weights) -> Fit | str:
        """The end of the replay, or the reason why there is none."""
        started = time.perf_counter()
        try:
            meta = self.run.replay(_changed(self.run.weights, self.level, removal, self.weight))
        except (RemovalError, SolverError, ConvergenceError) as error:
            return str(error)
        return Fit(meta, float("nan"), True, self.run.steps, 0, time.perf_counter() - started)


@dataclass(frozen=True)
class _Near:
    """One proximal model with other weights of some items; a class, so that it can be pickled."""

    near: NearModel
    level: Level
    weight: float

    def __call__(self, removal: Removal | Weights) -> Fit | str:
        """The model, or the reason why there is none without these items."""
        try:
            return self.near.fit(_changed(self.near.weights, self.level, removal, self.weight))
        except (RemovalError, SolverError) as error:
            return str(error)


def _changed(weights: Weights, level: Level, removal: Removal | Weights, weight: float) -> Weights:
    return removal if isinstance(removal, Weights) else weights.scaled(level, removal, weight)


def _key(level: Level, removal: Removal, weight: float) -> str:
    part = f"-at-{weight}" if weight else ""
    items = "-".join(str(i) for i in sorted(removal))
    return f"{level}-{items if len(items) < 40 else hashlib.sha256(items.encode()).hexdigest()[:24]}{part}"

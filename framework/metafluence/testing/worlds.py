"""Small fitted problems with items whose effect is known: what the suite of attribution methods runs on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property, lru_cache
from typing import Any

import torch
from torch import Tensor

from metafluence import Batch, BilevelProblem, Context, Fit, Level, RetrainBank, Targets, TaskSet, TrainingRun, build

WAYS, PER_CLASS = 2, 2
TWINS = (0, 1)
"""Two tasks that are the same."""
TWIN_INSTANCES = (2, (0, 2))
"""A task, and two of its instances that are the same, in support and in query."""
HARMFUL = 3
"""A task in which query and support disagree."""
SILENT = 4
"""A task of zero inputs and balanced labels: none of its items has an effect on a learner with a shared encoder."""
LEARNERS: dict[str, dict[str, Any]] = {
    "logistic-head": {"penalty": 0.3},
    "ridge-head": {"ridge": 0.3, "scale": 3.0},
    "imaml": {"proximal": 3.0},
    "maml": {"steps": 2, "rate": 0.3},
}
"""What a world can be one of, with the parameters that it has there."""


class World:
    """A learner fitted to seven tasks, targets, and exact retraining without every item.

    learner: one of LEARNERS. What is asked for again, retraining above all, is kept and shared; nothing is written to.
    """

    def __init__(self, seed: int, learner: str = "logistic-head") -> None:
        generator = torch.Generator().manual_seed(seed)
        self.seed, self.learner = seed, learner
        train = _tasks(7, generator)
        self.problem = self.over(train)
        self.validation = _tasks(3, generator, "validation")
        self.fit: Fit = build("trainer", "newton", tolerance=1e-10).fit(self.problem, generator=generator)
        assert self.fit.converged, f"{learner} has not converged in world {seed}, on which nothing can be tested"
        # Checkpoints on the way to this minimum and no other.
        near = self.fit.meta + 0.2 * torch.randn(self.problem.size, generator=generator, dtype=torch.float64)
        descent = build("trainer", "sgd", steps=12, batch=7, checkpoints=3)
        self.checkpoints = descent.fit(self.problem, init=near, generator=generator).checkpoints

    def over(self, tasks: TaskSet) -> BilevelProblem:
        learner = build("learner", self.learner, backbone={"use": "mlp", "hidden": [2]}, **LEARNERS[self.learner])
        return BilevelProblem(learner, tasks, 1.0, build("solver", "exact"))

    def context(self, level: Level, problem: BilevelProblem | None = None, run: bool = False) -> Context:
        """A fresh context at λ*, with the world's own bank.

        `problem` is the same one in another order or with other memory; its bank is a new one. run: at the end of a
        recorded run towards λ*, with that run.
        """
        if run:
            recorded = self.run if problem is None else self._run(problem)
            point = recorded.problem.at(recorded.final)
            return Context(point, level, torch.Generator().manual_seed(self.seed), run=recorded)
        bank = self.bank if problem is None else self._bank(problem)
        problem = problem or self.problem
        generator = torch.Generator().manual_seed(self.seed)
        return Context(problem.at(self.fit.meta), level, generator, bank, self.checkpoints)

    @cached_property
    def bank(self) -> RetrainBank:
        """Every retraining that was asked for is in it."""
        return self._bank(self.problem)

    @cached_property
    def run(self) -> TrainingRun:
        """Full steps of descent from near λ* that end close to it."""
        return self._run(self.problem)

    def _run(self, problem: BilevelProblem) -> TrainingRun:
        generator = torch.Generator().manual_seed(self.seed)
        near = self.fit.meta + 0.01 * torch.randn(self.problem.size, generator=generator, dtype=torch.float64)
        descent = build("trainer", "sgd", steps=10, batch=7, learning_rate=0.5, checkpoints=0, record=True)
        run = descent.fit(problem, init=near, generator=generator).run
        assert run is not None
        return run

    def targets(self, mean: bool = False) -> Targets:
        return self._targets[mean]

    @cached_property
    def _targets(self) -> tuple[Targets, Targets]:
        each, mean = (Targets(self.problem, self.validation, self.fit.meta, mean) for mean in (False, True))
        return each, mean

    def _bank(self, problem: BilevelProblem) -> RetrainBank:
        return RetrainBank(problem, self.fit, build("trainer", "newton", tolerance=1e-10), build("executor", "serial"))

    @cached_property
    def truth(self) -> Mapping[Level, tuple[Tensor, Tensor]]:
        """By level: Δλ [P, items] and the change of the mean target's loss [items], by exact retraining."""
        return _Truth(self)


class _Truth(dict[Level, tuple[Tensor, Tensor]]):
    """A level is retrained when it is asked for."""

    def __init__(self, here: World) -> None:
        self._here = here

    def __missing__(self, level: Level) -> tuple[Tensor, Tensor]:
        here, targets = self._here, self._here.targets(mean=True)
        meta = here.bank.leave_out(here.context(level).singles(), level).meta
        losses = torch.cat([targets.losses(m) for m in meta.T])
        self[level] = (meta - here.fit.meta.unsqueeze(1), losses - targets.losses())
        return self[level]


@lru_cache(maxsize=32)
def world(seed: int, learner: str = "logistic-head") -> World:
    """Worlds are made once; nothing in them is written to."""
    return World(seed, learner)


def _tasks(count: int, generator: torch.Generator, name: str = "task") -> TaskSet:
    labels = torch.arange(WAYS).repeat(PER_CLASS).expand(count, -1).clone()
    centres = 1.5 * torch.randn(count, WAYS, 2, generator=generator, dtype=torch.float64)

    def half() -> Batch:
        noise = torch.randn(*labels.shape, 2, generator=generator, dtype=torch.float64)
        picked = torch.gather(centres, 1, labels.unsqueeze(-1).expand(-1, -1, 2))
        return Batch(picked + 0.5 * noise, labels.clone())

    support, query = half(), half()
    tasks = TaskSet(support, query, tuple(f"{name}-{i}" for i in range(count)))
    if name != "task":
        return tasks
    query.targets[HARMFUL] = 1 - query.targets[HARMFUL]
    for batch in (support, query):
        batch.inputs[TWINS[1]], batch.targets[TWINS[1]] = batch.inputs[TWINS[0]], batch.targets[TWINS[0]]
        task, (one, other) = TWIN_INSTANCES
        batch.inputs[task, other], batch.targets[task, other] = batch.inputs[task, one], batch.targets[task, one]
        batch.inputs[SILENT] = 0.0
    return replace(tasks, support=support, query=query)

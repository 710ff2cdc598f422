"""Small fitted problems with items whose effect is known: what the suite of attribution methods runs on."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property, lru_cache

import torch
from torch import Tensor

from metafluence import (
    Batch,
    BilevelProblem,
    Context,
    Fit,
    Level,
    RetrainBank,
    Targets,
    TaskSet,
    build,
)

WAYS, PER_CLASS = 2, 2
TWINS = (0, 1)
"""Two tasks that are the same."""
TWIN_INSTANCES = (2, (0, 2))
"""A task, and two of its instances that are the same, in support and in query."""
HARMFUL = 3
"""A task in which query and support disagree."""
SILENT = 4
"""A task of zero inputs and balanced labels: none of its items has an effect on a learner with a shared encoder."""


class World:
    """A learner fitted to seven tasks, targets, and exact retraining without every item."""

    def __init__(self, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.seed = seed
        train = _tasks(7, generator)
        self.problem = self.over(train)
        self.validation = _tasks(3, generator, "validation")
        self.fit: Fit = build("trainer", "newton", tolerance=1e-10).fit(self.problem, generator=generator)
        # Checkpoints on the way to this minimum and no other.
        near = self.fit.meta + 0.2 * torch.randn(self.problem.size, generator=generator, dtype=torch.float64)
        descent = build("trainer", "sgd", steps=12, batch=7, checkpoints=3)
        self.checkpoints = descent.fit(self.problem, init=near, generator=generator).checkpoints

    def over(self, tasks: TaskSet) -> BilevelProblem:
        learner = build("learner", "logistic-head", backbone={"use": "mlp", "hidden": [2]}, penalty=0.3)
        return BilevelProblem(learner, tasks, 1.0, build("solver", "exact"))

    def context(self, level: Level, problem: BilevelProblem | None = None) -> Context:
        """A fresh context at λ*; `problem` is the same one in another order or with other memory."""
        problem = problem or self.problem
        return Context(
            problem.at(self.fit.meta),
            level,
            torch.Generator().manual_seed(self.seed),
            RetrainBank(problem, self.fit, build("trainer", "newton", tolerance=1e-10), build("executor", "serial")),
            self.checkpoints,
        )

    def targets(self, mean: bool = False) -> Targets:
        return Targets(self.problem, self.validation, self.fit.meta, mean)

    @cached_property
    def truth(self) -> dict[Level, tuple[Tensor, Tensor]]:
        """By level: Δλ [P, items] and the change of the mean target's loss [items], by exact retraining."""
        found: dict[Level, tuple[Tensor, Tensor]] = {}
        targets = self.targets(mean=True)
        for level in ("task", "support", "query"):
            context = self.context(level)
            assert context.bank is not None
            meta = context.bank.leave_out(context.singles(), level).meta
            losses = torch.cat([targets.losses(m) for m in meta.T])
            found[level] = (meta - self.fit.meta.unsqueeze(1), losses - targets.losses())
        return found


@lru_cache(maxsize=32)
def world(seed: int) -> World:
    """Worlds are made once; nothing in them is written to."""
    return World(seed)


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

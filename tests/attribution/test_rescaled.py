"""Scores with `leave_out: rescaled` against exact retraining, and where a task's curvature has rank one."""

from typing import Literal

import pytest
import torch
from torch import Tensor, nn

import metafluence as mf
from metafluence import Batch, BilevelProblem, Context, RetrainBank, Targets, TaskSet
from metafluence_plugins.executors.serial import Serial
from metafluence_plugins.learners.joint import Joint
from metafluence_plugins.learners.maml import MAML
from metafluence_plugins.methods.task_if import TaskIF
from parts import EXACT, NEWTON

FEATURES = 10
KINDS: tuple[bool | Literal["rescaled"], ...] = (False, "rescaled", True)
LEARNERS = {
    "joint": lambda: Joint(nn.Linear(FEATURES, 3)),
    "maml": lambda: MAML(nn.Linear(FEATURES, 3), steps=2, rate=0.3),
}


def classified(count: int, seed: int = 0) -> TaskSet:
    generator = torch.Generator().manual_seed(seed)
    classes = torch.randn(3, FEATURES, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    labels = torch.arange(6).remainder(3).expand(count, -1).clone()

    def half() -> Batch:
        noise = torch.randn(count, 6, FEATURES, generator=generator, dtype=torch.float64)
        return Batch(0.4 * classes[labels] + 0.4 * noise, labels)

    return TaskSet(half(), half(), tuple(f"task-{i}" for i in range(count)))


def squares(count: int, seed: int = 0) -> TaskSet:
    """Tasks of one query instance with one real target."""
    generator = torch.Generator().manual_seed(seed)

    def half() -> Batch:
        inputs = torch.randn(count, 1, 5, generator=generator, dtype=torch.float64)
        return Batch(inputs, torch.randn(count, 1, 1, generator=generator, dtype=torch.float64))

    return TaskSet(half(), half(), tuple(f"task-{i}" for i in range(count)))


class Judged:
    """A problem at its λ*, the targets, and what exact retraining without each task makes of them."""

    def __init__(self, problem: BilevelProblem, validation: TaskSet) -> None:
        fit = NEWTON.fit(problem, generator=torch.Generator().manual_seed(0))
        self.context = Context(problem.at(fit.meta), bank=RetrainBank(problem, fit, NEWTON, Serial()))
        self.targets = Targets(problem, validation, fit.meta, mean=False)
        assert self.context.bank is not None
        retrained = self.context.bank.leave_out(self.context.singles(), "task").meta
        self.change = (retrained - fit.meta.unsqueeze(1)).T @ self.targets.gradients()
        self.loss_change = torch.stack([self.targets.losses(meta) - self.targets.losses() for meta in retrained.T])

    def scores(self, leave_out: bool | Literal["rescaled"]) -> Tensor:
        return mf.attribute(TaskIF(solver=EXACT, leave_out=leave_out), self.context, self.targets).values


def gap(found: Tensor, wanted: Tensor) -> float:
    return float((found - wanted).norm() / wanted.norm())


@pytest.mark.parametrize("learner", LEARNERS)
def test_rescaled_scores_are_much_nearer_retraining_than_plain_ones(learner):
    """P is above the size of the Krylov space, so that what it leaves out counts, too."""
    problem = BilevelProblem(LEARNERS[learner](), classified(6), 0.5, EXACT)
    assert problem.size > 30
    judged = Judged(problem, classified(3, seed=9))
    plain, found, wanted = (judged.scores(kind) for kind in KINDS)
    assert gap(found, judged.change) < 0.4 * gap(plain, judged.change)
    assert abs(gap(found, judged.change) - gap(wanted, judged.change)) < 0.1 * gap(plain, judged.change)
    assert gap(found, judged.loss_change) < 0.8 * gap(plain, judged.loss_change)


def test_rescaled_scores_are_exact_where_a_task_has_curvature_of_rank_one():
    """Least squares: without task i the inverse is the full one divided by 1 − h_i (Sherman and Morrison)."""
    tasks = squares(9)
    judged = Judged(BilevelProblem(Joint(nn.Linear(5, 1, bias=False)), tasks, 0.5, EXACT), squares(4, seed=1))
    point = judged.context.point
    curvature = point.product_each(torch.eye(5).double()[:, [0]].expand(-1, 9))
    plain, found = judged.scores(False), judged.scores("rescaled")
    matrix = point.hessian().dense()
    inputs = tasks.query.inputs[:, 0].T
    # The loss of one instance has the second derivative c x xᵀ, c a number that all tasks share.
    scale = curvature[0] / inputs[0].square()
    assert torch.allclose(scale, scale[0].expand(9))
    leverage = scale * (inputs * torch.linalg.solve(matrix, inputs)).sum(dim=0)
    assert float(leverage.max()) > 0.3
    assert gap(found, plain / (1 - leverage).unsqueeze(1)) < 1e-9
    assert gap(found, judged.change) < 1e-9
    assert gap(plain, judged.change) > 0.2

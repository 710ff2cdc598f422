"""TRAK where dattri cannot be asked: weights of its query instances, and losses that it is not made for."""

from dataclasses import replace

import pytest
import torch

import metafluence as mf
from metafluence import Batch, BilevelProblem, Context, Targets, TaskSet, Weights
from metafluence.testing.worlds import world
from metafluence_plugins.methods.trak import TRAK
from parts import EXACT, LEARNERS


def scores(tasks: TaskSet, weights: Weights | None, level: mf.Level, name: str = "logistic-head") -> torch.Tensor:
    problem = BilevelProblem(LEARNERS[name](), tasks, 1.0, EXACT)
    meta = problem.learner.init_meta(torch.Generator().manual_seed(3))
    targets = Targets(problem, world(0).validation, meta, mean=False)
    return mf.attribute(TRAK(dim=64), Context(problem.at(meta, weights), level), targets).values


def fewer(tasks: TaskSet) -> TaskSet:
    """Without the first query instance of every task."""
    query = Batch(tasks.query.inputs[:, 1:], tasks.query.targets[:, 1:])
    return TaskSet(tasks.support, query, tasks.ids)


@pytest.mark.parametrize("level", ["query", "support"])
def test_query_instances_of_no_weight_are_not_in_the_kernel(level):
    tasks = world(0).problem.tasks
    count, n = tasks.query.targets.shape
    weights = Weights.ones(tasks).without("query", range(0, count * n, n))
    # A response divides by the number of query instances, removed ones too.
    found, wanted = scores(tasks, weights, level), scores(fewer(tasks), None, level) * (n - 1) / n
    if level == "query":
        found = found.unflatten(0, (count, n))[:, 1:].flatten(0, 1)
    assert torch.allclose(found, wanted, rtol=1e-8)
    assert not torch.allclose(found, scores(tasks, None, "support") if level == "support" else wanted * 1.1, rtol=1e-2)


def test_a_removed_task_is_not_in_the_kernel():
    tasks = world(0).problem.tasks
    kept = [1, 2, 3, 4, 5, 6]
    found = scores(tasks, Weights.ones(tasks).without("task", 0), "task")
    assert torch.allclose(found[kept], scores(tasks[kept], None, "task"), rtol=1e-8)


def test_a_weight_of_two_counts_as_two_tasks_that_are_the_same():
    """The first two of the world are."""
    tasks = world(0).problem.tasks
    single = tasks[[0, 2, 3, 4, 5, 6]]
    found = scores(single, Weights.ones(single).set("task", 0, 2.0), "task")
    assert torch.allclose(found[1:], scores(tasks, None, "task")[2:], rtol=1e-8)
    assert not torch.allclose(found[1:], scores(single, None, "task")[1:], rtol=1e-2)


@pytest.mark.parametrize("loss", [mf.SquaredLoss(), None])
def test_losses_that_are_no_softmax_are_refused(loss):
    problem = BilevelProblem(LEARNERS["imaml"](), world(0).problem.tasks, 1.0, EXACT)
    point = problem.at(problem.learner.init_meta(torch.Generator().manual_seed(0)))
    binding = replace(problem.learner.binding, loss=loss)  # as the learner is bound to real targets
    object.__setattr__(problem.learner, "_metafluence_binding", binding)
    with pytest.raises(mf.InputError, match=r"trak needs the margins of a softmax .* IMAML's output_loss here is"):
        TRAK().prepare(Context(point, "query"))

"""TRAK where dattri cannot be asked: weights of its query instances, and losses that it is not made for."""

from dataclasses import replace

import pytest
import torch

import metafluence as mf
from metafluence import Batch, BilevelProblem, Context, Projection, Targets, TaskSet, Weights
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


@pytest.mark.parametrize("kind", ["sparse", "rademacher", "gaussian"])
def test_every_block_of_a_projection_is_drawn_anew(kind, monkeypatch):
    monkeypatch.setattr(f"{Projection.__module__}.BLOCK_BYTES", 4 * 64 * 8)  # four rows of 64 numbers
    matrix = Projection(12, 64, kind, 0).apply(torch.eye(12).double())
    assert torch.equal(matrix, Projection(12, 64, kind, 0).apply(torch.eye(12).double()))
    assert len(matrix.unique(dim=0)) == 12


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


@pytest.mark.parametrize("level", mf.WEIGHED)
def test_several_models_multiply_their_means(level):
    """Park et al. 2023, equation 17, written out with dense gradients: two checkpoints, a projection of full rank."""
    problem = BilevelProblem(LEARNERS["logistic-head"](), world(0).problem.tasks, 1.0, EXACT)
    metas = [problem.learner.init_meta(torch.Generator().manual_seed(seed)) for seed in (3, 4)]
    checkpoints = tuple(mf.Checkpoint(step, 0.1, meta) for step, meta in enumerate(metas, start=1))
    targets = Targets(problem, world(0).validation, metas[-1], mean=False)
    method = TRAK(dim=64, models="checkpoints")
    weights = Weights.ones(problem.tasks).set("query", 1, 0.5)
    context = Context(problem.at(metas[-1], weights), level, checkpoints=checkpoints)
    found = mf.attribute(method, context, targets).values
    projection, kernels, factors = Projection(problem.size, 64, "rademacher", 0), [], []
    count, n = problem.tasks.query.targets.shape
    own = weights.query.flatten()
    for meta in metas:
        point = problem.at(meta, weights)
        q = 1 - torch.exp(-point.item_losses("query"))
        projected = projection.apply(point.responses("query").T)
        margins = n * projected / q.unsqueeze(1)
        kernel = (margins * own.unsqueeze(1)).T @ margins
        kernel = kernel + kernel.trace() / 64 * torch.eye(64, dtype=kernel.dtype)
        goals = projection.apply(targets.at(meta).gradients().T).T
        items = projection.apply(point.responses(level).T) if level == "support" else projected / q.unsqueeze(1)
        kernels.append(items @ torch.linalg.inv(kernel) @ goals)
        factors.append(torch.ones(len(items), dtype=q.dtype) if level == "support" else q)
    wanted = sum(kernels) / 2 * (sum(factors) / 2).unsqueeze(1)
    if level == "task":
        wanted = (wanted * own.unsqueeze(1)).unflatten(0, (count, n)).sum(dim=1)
    elif level == "query":  # a removal takes away the weight that the instance has
        wanted = wanted * own.unsqueeze(1)
    torch.testing.assert_close(found, wanted, rtol=1e-8, atol=1e-12)
    if level != "support":
        products = sum(k * q.unsqueeze(1) for k, q in zip(kernels, factors, strict=True)) / 2
        products = products * own.unsqueeze(1)
        products = products.unflatten(0, (count, n)).sum(dim=1) if level == "task" else products
        assert not torch.allclose(found, products, rtol=1e-2), "the mean of products is something else"

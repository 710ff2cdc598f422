"""Sums and slopes over chunks of tasks whose weights are not 1."""

import pytest
import torch

import metafluence as mf
from metafluence.testing.worlds import world
from parts import EXACT, LEARNERS


@pytest.mark.parametrize("level", mf.WEIGHED)
@pytest.mark.parametrize("memory", [2.0, 3.5])
def test_sums_and_slopes_are_those_of_the_responses(level, memory):
    """Several tasks to a chunk; the weights of the other levels are all different."""
    tasks = world(0).problem.tasks
    problem = mf.BilevelProblem(LEARNERS["logistic-head"](), tasks, 0.7, EXACT)
    meta = problem.learner.init_meta(torch.Generator().manual_seed(0))
    if memory > 3:  # three tasks at a time
        gib = memory * problem.bytes_per_task(meta) / 2**30
        problem = mf.BilevelProblem(LEARNERS["logistic-head"](), tasks, 0.7, EXACT, gib)
    weights = mf.Weights.ones(tasks)
    for kind in set(mf.WEIGHED) - {level}:
        count = getattr(weights, kind).numel()
        for item in range(count):
            weights = weights.set(kind, item, 0.5 + item / count)
    point = problem.at(meta, weights)
    responses = point.responses(level)
    removals = [(0, 3), (1, 2, 6), (5,)]
    wanted = torch.stack([responses[:, list(items)].sum(dim=1) for items in removals], dim=1)
    assert torch.allclose(point.removed(removals, level), wanted, rtol=1e-9)
    columns = torch.randn(len(meta), 2, generator=torch.Generator().manual_seed(1), dtype=meta.dtype)
    assert torch.allclose(point.slopes(columns, level), responses.T @ columns, rtol=1e-9)


@pytest.mark.parametrize("learner", LEARNERS)
def test_products_of_single_tasks_add_up_to_that_of_all(learner):
    """Also where tasks have other weights, and each its part of the encoder's own second derivatives."""
    tasks = world(0).problem.tasks
    problem = mf.BilevelProblem(LEARNERS[learner](), tasks, 0.7, EXACT)
    meta = problem.learner.init_meta(torch.Generator().manual_seed(0))
    count = len(tasks)
    weights = mf.Weights.ones(tasks)
    for item in range(count):
        weights = weights.set("task", item, 0.5 + item / count)
    point = problem.at(meta, weights)
    column = torch.randn(len(meta), 1, generator=torch.Generator().manual_seed(1), dtype=meta.dtype)
    each = point.product_each(column.expand(-1, count))
    wanted = point.product(column, "total") - 0.7 * column
    assert torch.allclose(each.sum(dim=1, keepdim=True), wanted, rtol=1e-8, atol=1e-11)

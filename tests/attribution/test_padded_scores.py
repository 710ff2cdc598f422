"""Scores do not depend on padding, for every method."""

from dataclasses import replace

import pytest
import torch

import metafluence as mf
from metafluence.testing.worlds import world

MORE = 2
NOT_HERE = ("random", "retrain", "paper", "tlxml")  # no scores of their own, or settings of methods that are here
QUICK = ("influence", "loss", "run-influence", "trak")
METHODS = [
    pytest.param(name, marks=() if name in QUICK else pytest.mark.slow)
    for name in mf.default_registry().names("method")
    if name not in NOT_HERE
]


def padded(tasks: mf.TaskSet) -> mf.TaskSet:
    """The same tasks, with more padding than the largest task needs."""

    def half(batch: mf.Batch) -> mf.Batch:
        parts = (torch.cat([x, x[:, :1].expand(-1, MORE, *x.shape[2:])], dim=1) for x in (batch.inputs, batch.targets))
        return mf.Batch(*parts)

    counts = torch.tensor([[tasks.each("support"), tasks.each("query")]]).expand(len(tasks), 2)
    return mf.TaskSet(half(tasks.support), half(tasks.query), tasks.ids, counts=counts.clone())


@pytest.mark.parametrize("name", METHODS)
def test_scores_do_not_depend_on_padding(name):
    here = world(0)
    more = here.over(padded(here.problem.tasks))
    wrong = here.over(replace(more.tasks, counts=None))  # what padding that counts would do
    spec = {"solver": "exact"} if name in ("task-if", "instance-if", "influence", "direct-if") else {}
    method = mf.build("method", name, **spec)
    for level in sorted(method.levels - {"image", "class", "support"}):

        def scores(problem: mf.BilevelProblem, level: mf.Level = level) -> torch.Tensor:
            return mf.attribute(method, here.context(level, problem, method.needs_run), here.targets()).values

        usual, found, counted = scores(here.problem), scores(more), scores(wrong)
        if level != "task":
            found, counted = (x.unflatten(0, (len(more.tasks), -1)) for x in (found, counted))
            assert not found[:, -MORE:].any()
            found, counted = (x[:, :-MORE].flatten(0, 1) for x in (found, counted))
        if name == "trak":  # of no size
            usual, found, counted = (x / x.norm() for x in (usual, found, counted))
        torch.testing.assert_close(found, usual, rtol=1e-7, atol=1e-8 * float(usual.abs().max()))
        if name != "loss" or level == "task":
            assert not torch.allclose(counted, usual, rtol=1e-3)


@pytest.mark.parametrize("level", ["task", "query"])
def test_exact_retraining_does_not_depend_on_padding(level):
    here = world(0)
    more = here.over(padded(here.problem.tasks))
    items = [(1,), (2,)] if level == "task" else [(1,), (more.tasks.each(level) - 1,)]
    bank = here.context(level, more).bank
    assert bank is not None
    found = bank.leave_out(items, level).meta
    torch.testing.assert_close(found[:, 0], here.bank.leave_out([(1,)], level).meta[:, 0], rtol=1e-8, atol=1e-8)
    if level == "query":
        torch.testing.assert_close(found[:, 1], here.fit.meta, rtol=1e-8, atol=1e-8)

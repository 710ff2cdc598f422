"""Scores of several levels in one call: those of each level alone, and of a recorded run in one sweep."""

import pytest
import torch

import metafluence as mf
import small_loops
from metafluence.training import run_derivatives
from refusals import refused


@pytest.fixture(scope="module")
def context(tmp_path_factory) -> mf.Context:
    run = small_loops.recorded(tmp_path_factory.mktemp("levels") / "run")
    return mf.Context(run.problem.at(run.final), run=run)


@pytest.fixture(scope="module")
def targets(context) -> mf.Targets:
    parts = small_loops.validation()
    tasks = mf.TaskSet(mf.Batch(*parts[:2]), mf.Batch(*parts[2:]), ("first", "second", "third"))
    return mf.Targets(context.problem, tasks, context.point.meta, mean=False)


@pytest.mark.parametrize("method", ["run-influence", "loss"])
def test_they_are_those_of_each_level(method, context, targets):
    """Oracle: a call for each level."""
    way = mf.build("method", method)
    found = mf.attribute_levels(way, context, targets)
    assert tuple(found) == mf.LEVELS
    for level, scores in found.items():
        alone = mf.attribute(way, mf.Context(context.point, level, run=context.run), targets)
        assert scores.level == level
        assert torch.equal(scores.values, alone.values)
        assert (scores.units, scores.notes, scores.solve) == (alone.units, alone.notes, alone.solve)


def test_a_run_is_swept_once(context, targets, monkeypatch):
    steps, original = [], run_derivatives.step_back

    def counted(run, step, sweep):
        steps.append(step.number)
        original(run, step, sweep)

    monkeypatch.setattr(run_derivatives, "step_back", counted)
    mf.attribute_levels(mf.build("method", "run-influence"), context, targets)
    assert steps == [4, 3, 2, 1]


def test_scores_of_a_run_at_several_levels_are_those_of_each(context, targets):
    way, tasks = mf.build("method", "run-influence"), targets.problem.tasks
    found = mf.score_run_levels(context.run, tasks, way, ("image", "task"), trust=False)
    assert tuple(found) == ("image", "task")
    for level, scores in found.items():
        alone = mf.score_run(context.run, tasks, way, level, trust=False)
        assert torch.equal(scores.values, alone.values)
        assert (scores.level, scores.loss, scores.targets) == (level, alone.loss, alone.targets)


def test_a_level_that_is_not_there_is_refused_before_all_work(context, targets, tmp_path):
    run = small_loops.recorded(tmp_path, named=False)
    nameless = mf.Context(run.problem.at(run.final), run=run)
    with refused("Items of level 'image' are not known"):
        mf.attribute_levels(mf.build("method", "loss"), nameless, targets.at(run.final), ("task", "image"))
    with refused("level 'support'"):
        mf.attribute_levels(mf.build("method", "task-if"), context, targets, ("task", "support"))

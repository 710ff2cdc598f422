"""Reweighting along scores and selecting by them, against exact fits and replays."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings, strategies as st

import metafluence as mf
from metafluence import BilevelProblem, InputError, Weights
from metafluence.testing.worlds import world
from metafluence_plugins.executors.serial import Serial
from metafluence_plugins.methods.influence import InfluenceFunction
from metafluence_plugins.methods.loss import LossScore
from metafluence_plugins.methods.run_influence import RunInfluence
from parts import EXACT, LEARNERS, NEWTON
from small_problems import seeded, tasks, with_origins

INFLUENCE = InfluenceFunction(solver=EXACT)


def scored(level: mf.Level = "task", seed: int = 0):
    bilevel = BilevelProblem(LEARNERS["logistic-head"](), with_origins(tasks(5, seed)), 0.5, EXACT)
    fit = NEWTON.fit(bilevel, generator=seeded(seed))
    context = mf.Context(bilevel.at(fit.meta), level, bank=mf.RetrainBank(bilevel, fit, NEWTON, Serial()))
    targets = mf.Targets(bilevel, tasks(3, seed + 1), fit.meta, mean=False)
    return context, targets, mf.attribute(INFLUENCE, context, targets)


@pytest.mark.parametrize("level", mf.LEVELS)
@given(seed=st.integers(0, 2**20))
@settings(max_examples=1)
def test_a_small_step_does_what_first_order_says_and_halving_it_halves_the_error_twice(level, seed):
    context, targets, scores = scored(level, seed)
    large, small = (mf.reweighted(context, targets, scores, step) for step in (2e-2, 1e-2))
    errors = [float((one.true - one.predicted).norm()) for one in (large, small)]
    assert errors[1] <= 0.05 * float(small.true.norm())
    assert errors[1] <= 0.3 * errors[0] + 1e-10
    assert float(small.true.mean()) < 0
    weights = context.point.weights.of(level)
    assert float((small.factors * weights).sum()) == pytest.approx(float(weights.sum()))


def test_weights_that_would_fall_below_zero_are_zero_and_the_fit_is_that_of_these_weights():
    context, targets, scores = scored()
    far = mf.reweighted(context, targets, scores, 5.0)
    assert float(far.factors.min()) == 0
    plain = NEWTON.fit(context.problem, replace(Weights.ones(context.problem.tasks), task=far.factors)).meta
    assert torch.allclose(far.meta, plain, atol=1e-7)


def test_a_run_is_replayed_with_the_new_weights():
    here = world(0)
    context = here.context("task", run=True)
    assert context.run is not None
    run = context.run
    fit = mf.Fit(run.final, 0.0, False, run.steps, 0, 0.0, run=run)
    bank = mf.RetrainBank(here.problem, fit, NEWTON, Serial(), start="replay")
    context = replace(context, bank=bank)
    targets = mf.Targets(here.problem, here.validation, run.final)
    scores = mf.attribute(RunInfluence(), context, targets)
    found = mf.reweighted(context, targets, scores, 1e-3)
    again = run.replay(run.weights.times("task", found.factors))
    assert torch.equal(found.meta, again)
    assert torch.allclose(found.true, found.predicted, rtol=1e-2)


def test_scores_without_units_predict_no_change():
    context, targets, _ = scored()
    assert bool(mf.reweighted(context, targets, mf.attribute(LossScore(), context, targets)).predicted.isnan().all())


def test_a_selection_is_the_fit_with_the_best_and_random_sets_are_of_its_size():
    here = world(0)
    context, targets = here.context("task"), here.targets(mean=True)
    scores = {
        "influence": mf.attribute(INFLUENCE, context, targets).values[:, 0],
        "worst": -mf.attribute(INFLUENCE, context, targets).values[:, 0],
    }
    found = mf.selected(context, targets, scores, keep=6, draws=4)
    (left,) = found.removed["influence"]
    assert left == int(scores["influence"].argmin())
    meta = NEWTON.fit(here.problem, context.point.weights.without("task", [left]), here.fit.meta).meta
    assert found.change["influence"] == pytest.approx(float(targets.losses(meta) - targets.losses()), abs=1e-8)
    assert found.change["influence"] < float(found.random.max())
    assert found.beats_random("influence") == (found.change["influence"] < float(found.random.min()))
    assert not found.beats_random("worst")
    assert len(found.random) == 4
    assert found.by_chance.low <= found.by_chance.value <= found.by_chance.high


def test_what_cannot_be_decided_is_refused():
    context, targets, scores = scored()
    for step in (0.0, -1.0, float("nan")):
        with pytest.raises(InputError, match="leads nowhere"):
            mf.reweighted(context, targets, scores, step)
    with pytest.raises(InputError, match="Give a context with a bank"):
        mf.reweighted(replace(context, bank=None), targets, scores)
    with pytest.raises(InputError, match="Give the scores of these"):
        mf.reweighted(replace(context, level="query"), targets, scores)
    values = {"influence": scores.values[:, 0]}
    with pytest.raises(InputError, match="Keep 1 to 4"):
        mf.selected(context, targets, values, keep=5)
    with pytest.raises(InputError, match="one for each of 5 items"):
        mf.selected(context, targets, {"influence": scores.values}, keep=2)
    with pytest.raises(InputError, match="with a bank"):
        mf.selected(replace(context, bank=None), targets, values, keep=2)

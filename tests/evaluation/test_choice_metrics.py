"""What keeping and reweighting do to the test tasks, against exact fits made by hand."""

from dataclasses import replace

import pytest
import torch

import metafluence as mf
from metafluence.testing import metric_suite
from metafluence_plugins.metrics.beside_random import beside_random
from metafluence_plugins.metrics.kept import Kept
from metafluence_plugins.metrics.reweighting import Reweighting
from refusals import refused
from small_studies import RUN, changed

NEWTON = mf.build("trainer", "newton", tolerance=1e-10)
KEPT, REWEIGHTING = Kept(share=0.5, draws=3), Reweighting(step=0.4, draws=3)

TestKept = metric_suite(KEPT, examples=1)
# Where all scores are the same there is no order, which is refused.
TestReweighting = metric_suite(REWEIGHTING, examples=1)


@pytest.fixture(scope="module")
def given(tmp_path_factory) -> mf.Measured:
    study = changed(methods=["task-if"], solvers=["exact"], certificate=False, truth={"items": 2})
    result = mf.Study(mf.parse_study(study), mf.default_registry(), tmp_path_factory.mktemp("choice")).run()
    return mf.Measured(result.evaluations["task"], mf.build("method", "task-if", solver="exact"), result.runs[0].scores)


def of_tests(one: mf.Evaluation, weights: mf.Weights | None = None) -> float:
    meta = one.meta if weights is None else NEWTON.fit(one.problem, weights, init=one.meta).meta
    return float(one.problem.over(one.test_tasks).at(meta).task_losses.mean())


def test_what_is_kept_are_the_items_of_highest_score_and_random_ones_beside_them(given):
    one, ones = given.evaluation, mf.Weights.ones(given.evaluation.problem.tasks)
    out = given.scores.argsort()[:3].tolist()
    generator = one.generator()
    draws = [torch.randperm(6, generator=generator)[:3].tolist() for _ in range(3)]
    own, *random = (of_tests(one, ones.without("task", some)) - of_tests(one) for some in (out, *draws))
    found = KEPT.measure(given)
    assert found["change"] == pytest.approx(own, abs=1e-7)
    assert found["gain"] == pytest.approx(sum(random) / 3 - own, abs=1e-7)
    assert found["beaten"] == pytest.approx(sum(r > own for r in random) / 3)
    best = KEPT.measure(replace(given, scores=-given.scores))
    assert best["change"] != pytest.approx(own, abs=1e-4), "the others are kept"


def test_weights_grow_evenly_with_the_rank_and_random_orders_have_the_same(given):
    one, ones = given.evaluation, mf.Weights.ones(given.evaluation.problem.tasks)
    generator = one.generator()
    orders = [given.scores.argsort().argsort(), *(torch.randperm(6, generator=generator) for _ in range(3))]
    factors = [torch.tensor([0.6, 0.76, 0.92, 1.08, 1.24, 1.4]).double()[order] for order in orders]
    own, *random = (of_tests(one, replace(ones, task=some)) - of_tests(one) for some in factors)
    found = REWEIGHTING.measure(given)
    assert found["change"] == pytest.approx(own, abs=1e-7)
    assert found["gain"] == pytest.approx(sum(random) / 3 - own, abs=1e-7)
    assert found["beaten"] == pytest.approx(sum(r > own for r in random) / 3)
    opposite = REWEIGHTING.measure(replace(given, scores=-given.scores))
    assert opposite["change"] != pytest.approx(own, abs=1e-4)


def test_two_methods_have_the_same_random_choices(given):
    other = replace(given, scores=given.scores.roll(1))
    for metric in (KEPT, REWEIGHTING):
        first, second = metric.measure(given), metric.measure(other)
        assert first["change"] != second["change"]
        assert first["change"] + first["gain"] == pytest.approx(second["change"] + second["gain"], abs=1e-12)


def test_ties_count_half_and_fits_that_failed_do_not_count():
    random = torch.tensor([1.0, 2.0, 3.0, torch.nan, 0.0])
    assert beside_random(1.0, random) == {"change": 1.0, "gain": 0.5, "beaten": 0.625}
    assert beside_random(1.0, torch.tensor([torch.nan])) == {"change": 1.0}


def test_of_a_procedure_it_is_the_mean_over_its_runs(tmp_path):
    truth = {"kind": "procedure", "seeds": 2, "items": 2}
    study = {**RUN, "truth": truth, "methods": ["run-influence"], "metrics": [{"use": "kept", "draws": 2}]}
    result = mf.Study(mf.parse_study(study), mf.default_registry(), tmp_path).run()
    (run,), evaluation = result.runs, result.evaluations["task"]
    out = run.scores.argsort()[:6].tolist()
    changes = []
    for one in evaluation.runs:
        problem = one.problem.over(one.test_tasks)
        metas = [one.run.replay(one.run.weights.without("task", out)), one.run.final]
        after, before = (float(problem.at(meta).task_losses.mean()) for meta in metas)
        changes.append(after - before)
    assert changes[0] != pytest.approx(changes[1])
    assert run.row.metrics["kept draws=2.change"] == pytest.approx(sum(changes) / 2, abs=1e-9)


def test_what_cannot_be_asked_is_refused(given):
    constant = replace(given, scores=torch.ones(6).double())
    with refused("All scores are the same, so that no item is to weigh more. Choose another method"):
        REWEIGHTING.measure(constant)
    bare = replace(given, evaluation=replace(given.evaluation, bank=None, truth=None))
    with refused("A selection is fitted again. Give a context with a bank"):
        KEPT.measure(bare)
    with refused("It compares with retraining, and there is no `truth` here. Give the study one"):
        REWEIGHTING.of(bare)
    late = replace(given, evaluation=replace(given.evaluation, seen=torch.arange(3)))
    with refused("The run saw some of the items alone, and a budget is of all. Leave it out of this study"):
        KEPT.measure(late)

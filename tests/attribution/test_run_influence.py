"""run-influence against replays of its run, and what it refuses."""

from dataclasses import replace

import pytest
import torch

import metafluence as mf
from metafluence import BilevelProblem, Context, InputError, Targets
from metafluence_plugins.methods.run_influence import RunInfluence
from metafluence_plugins.trainers.adam import Adam
from parts import EXACT, LEARNERS
from small_problems import seeded, tasks


def ended(**options) -> tuple[BilevelProblem, mf.TrainingRun]:
    bilevel = BilevelProblem(LEARNERS["maml"](), tasks(), 0.3, EXACT)
    trainer = Adam(**{"steps": 8, "batch": 3, "learning_rate": 0.02, "eps_root": 1e-3, "record": True, **options})
    run = trainer.fit(bilevel, generator=seeded()).run
    assert run is not None
    return bilevel, run


@pytest.mark.parametrize("level", mf.WEIGHED)
def test_scores_and_parameters_follow_replays_without_the_items(level):
    bilevel, run = ended()
    method, context = RunInfluence(), Context(bilevel.at(run.final), level, run=run)
    targets = Targets(bilevel, tasks(4, seed=1), run.final)
    scores = mf.attribute(method, context, targets).values[:, 0]
    assert len(scores) == context.items
    removals = [(0,), (3,), (5,)]
    change = method.parameter_change(method.prepare(context), removals)
    assert change is not None
    torch.testing.assert_close(change.values.T @ targets.gradients()[:, 0], scores[[0, 3, 5]], rtol=1e-8, atol=1e-12)
    before = targets.losses()
    for removal, moved in zip(removals, change.values.T, strict=True):
        # With a tenth of the removal the error falls by ten, as of a first order.
        errors = []
        for share in (1.0, 0.1):
            end = run.replay(run.removing(level, removal, 1 - share))
            errors.append(float((end - run.final - share * moved).norm() / (end - run.final).norm()))
        assert errors[0] < 0.7  # one task of six is no small change
        assert errors[1] == pytest.approx(errors[0] / 10, rel=0.6)
        small = targets.losses(run.replay(run.removing(level, removal, 1 - 1e-4))) - before
        assert float(small) == pytest.approx(1e-4 * float(scores[removal[0]]), rel=1e-2, abs=1e-10)


@pytest.mark.parametrize("level", mf.WEIGHED)
def test_scores_are_of_all_of_an_item_s_weight(level):
    bilevel = BilevelProblem(LEARNERS["logistic-head"](), tasks(3), 0.3, EXACT)
    ones = mf.Weights.ones(bilevel.tasks)
    weights = replace(ones, **{level: getattr(ones, level) * 0.6}).set(level, 1, 1.7)
    run = Adam(steps=3, batch=2, record=True).fit(bilevel, weights, generator=seeded()).run
    assert run is not None
    method, context = RunInfluence(), Context(bilevel.at(run.final, weights), level, run=run)
    targets = Targets(bilevel, tasks(4, seed=1), run.final)
    change = method.parameter_change(method.prepare(context), context.singles())
    found = mf.attribute(method, context, targets).values
    torch.testing.assert_close(found, change.values.T @ targets.gradients(), rtol=1e-8, atol=1e-12)


def test_every_target_has_a_column():
    bilevel, run = ended(steps=3)
    context = Context(bilevel.at(run.final), "query", run=run)
    each, mean = (Targets(bilevel, tasks(4, seed=1), run.final, mean) for mean in (False, True))
    found = mf.attribute(RunInfluence(), context, each).values
    torch.testing.assert_close(
        found.mean(dim=1, keepdim=True), mf.attribute(RunInfluence(), context, mean).values, rtol=1e-9, atol=1e-13
    )


def test_it_tells_how_far_it_has_come_and_goes_on_from_its_folder(tmp_path):
    told = []

    class Listener(mf.Observer):
        def stage(self, name, total=None):
            told.append((name, total))

        def step(self, done, total=None, note=""):
            told.append((done, total))
            assert "GiB" in note

    bilevel, run = ended(steps=4)
    targets = Targets(bilevel, tasks(2, seed=1), run.final)
    context = Context(bilevel.at(run.final), run=run, observer=Listener(), folder=tmp_path)
    wanted = mf.attribute(RunInfluence(), replace(context, folder=None), targets).values
    assert told == [("sweeping back through the run", 4), *((done, 4) for done in range(5))]
    for steps in (4, 0):
        told.clear()
        assert torch.equal(mf.attribute(RunInfluence(), context, targets).values, wanted)
        assert len(told) == 2 + steps


def test_it_needs_the_run_that_ended_there():
    bilevel, run = ended(steps=2)
    targets = Targets(bilevel, tasks(2, seed=1), run.final)
    with pytest.raises(InputError, match=r"RunInfluence works on a recorded run.*record=True.*Context\(run=run\)"):
        mf.attribute(RunInfluence(), Context(bilevel.at(run.final)), targets)
    with pytest.raises(InputError, match="ends in other meta-parameters"):
        mf.attribute(RunInfluence(), Context(bilevel.at(run.final + 1), run=run), targets)
    other = replace(run, problem=BilevelProblem(LEARNERS["maml"](), tasks(seed=4), 0.3, EXACT))
    with pytest.raises(InputError, match="another problem"):
        mf.attribute(RunInfluence(), Context(bilevel.at(run.final), run=other), targets)

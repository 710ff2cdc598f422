"""Weights that are not one: a removal changes a weight by what it is, so scores and edits scale by it."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings, strategies as st

import metafluence as mf
from metafluence import BilevelProblem, InputError, Weights
from metafluence_plugins.executors.serial import Serial
from metafluence_plugins.methods.direct_if import DirectIF
from metafluence_plugins.methods.ekfac_if import EKFACIF
from metafluence_plugins.methods.grad_ascent import GradAscent
from metafluence_plugins.methods.gradient_similarity import GradientSimilarity
from metafluence_plugins.methods.influence import InfluenceFunction
from metafluence_plugins.methods.tracin import TracIn
from metafluence_plugins.methods.trak import TRAK
from parts import EXACT, LEARNERS, NEWTON
from small_problems import problem, seeded, tasks

METHODS = {
    "influence": InfluenceFunction(solver=EXACT),
    "direct-if": DirectIF(solver=EXACT, damping=0.3),
    "ekfac-if": EKFACIF(damping=0.3),
    "grad-ascent": GradAscent(steps=1),
    "gradient-similarity": GradientSimilarity(),
    "tracin": TracIn(),
    "trak": TRAK(dim=8),
}


def random_weights(problem: BilevelProblem, seed: int) -> Weights:
    ones, generator = Weights.ones(problem.tasks), seeded(seed)
    parts = (ones.task, ones.support, ones.query)
    return Weights(*(0.2 + 1.8 * torch.rand(w.shape, generator=generator, dtype=w.dtype) for w in parts))


@pytest.mark.parametrize("level", mf.WEIGHED)
@given(seed=st.integers(0, 2**20))
@settings(max_examples=2)
def test_edits_are_the_derivative_of_exact_retraining(level, seed):
    bilevel = problem(tasks(4, seed))
    weights = random_weights(bilevel, seed)
    fit = NEWTON.fit(bilevel, weights, generator=seeded())
    context = mf.Context(bilevel.at(fit.meta, weights), level)
    removals = [(1,), (0, 3, 3)]
    found = METHODS["influence"].parameter_change(METHODS["influence"].prepare(context), removals).values
    bank = mf.RetrainBank(bilevel, fit, NEWTON, Serial(), weights=weights)
    step = 1e-3
    more, less, far, near = (bank.leave_out(removals, level, weight=1 + t * step).meta for t in (1, -1, 2, -2))
    wanted = -(8 * (more - less) - (far - near)) / (12 * step)
    assert float((found - wanted).norm()) <= 1e-6 * float(wanted.norm())


def test_removing_takes_all_of_an_item_s_weight():
    bilevel = problem(tasks(4))
    weights = random_weights(bilevel, 0)
    fit = NEWTON.fit(bilevel, weights, generator=seeded())
    bank = mf.RetrainBank(bilevel, fit, NEWTON, Serial(), weights=weights)
    for level in mf.WEIGHED:
        plain = NEWTON.fit(bilevel, weights.without(level, [0, 2]), fit.meta).meta
        assert torch.allclose(bank.leave_out([(0, 2)], level).meta[:, 0], plain, atol=1e-8)


@pytest.mark.parametrize("learner", ["logistic-head", "imaml"])
@pytest.mark.parametrize("name", [n for n in METHODS if n != "grad-ascent"])
def test_targets_in_columns_have_the_mean_of_all(name, learner):
    bilevel = BilevelProblem(LEARNERS[learner](), tasks(3), 0.3, EXACT)
    meta = bilevel.learner.init_meta(seeded())
    checkpoints = (mf.Checkpoint(1, 0.1, meta),) if name == "tracin" else ()
    context = mf.Context(bilevel.at(meta), checkpoints=checkpoints)
    each, mean = (mf.attribute(METHODS[name], context, mf.Targets(bilevel, tasks(3, 7), meta, mean=m)).values
                  for m in (False, True))  # fmt: skip
    assert torch.allclose(each.mean(dim=1, keepdim=True), mean, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("level", mf.WEIGHED)
def test_leaving_out_all_at_once_is_one_at_a_time(level):
    bilevel = problem(tasks(4))
    weights = random_weights(bilevel, 1)
    method = InfluenceFunction(solver=EXACT, leave_out=True)
    context = mf.Context(bilevel.at(NEWTON.fit(bilevel, weights, generator=seeded()).meta, weights), level)
    state, singles = method.prepare(context), mf.Context(context.point, level).singles()
    together = method.parameter_change(state, singles).values
    for item, removal in list(enumerate(singles))[:5]:
        alone = method.parameter_change(state, [removal]).values[:, 0]
        assert torch.allclose(together[:, item], alone, atol=1e-9 * float(alone.norm()) + 1e-12)


@pytest.mark.parametrize("level", mf.WEIGHED)
def test_another_inner_solver_keeps_the_weights(level):
    bilevel = problem(tasks(4))
    meta = bilevel.learner.init_meta(seeded())
    context = mf.Context(bilevel.at(meta, random_weights(bilevel, 1)), level)
    targets = mf.Targets(bilevel, tasks(3, 7), meta)
    plain, swapped = (mf.attribute(InfluenceFunction(solver=EXACT, inner_solver=s), context, targets).values
                      for s in (None, EXACT))  # fmt: skip
    assert torch.allclose(plain, swapped, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("name", ["influence", "direct-if", "ekfac-if"])
def test_a_task_of_weight_two_bends_the_objective_as_two_tasks_do(name):
    train = tasks(3)
    halves = [mf.Batch(*(part[[0, 0, 1, 2]] for part in (h.inputs, h.targets))) for h in (train.support, train.query)]
    double = problem(mf.TaskSet(*halves, ("0", "again", "1", "2")))
    single = problem(train)
    meta = single.learner.init_meta(seeded())
    found, wanted = (
        mf.attribute(METHODS[name], mf.Context(p.at(meta, weights)), mf.Targets(p, tasks(3, 7), meta)).values
        for p, weights in ((single, Weights.ones(train).set("task", 0, 2.0)), (double, None))
    )
    assert torch.allclose(found[1:], wanted[2:], rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("options", [{"leave_out": True}, {"solver": EXACT}, {}], ids=["leave_out", "exact", "cg"])
def test_every_product_is_reported(options, monkeypatch):
    bilevel, multiplied = problem(tasks(4)), []
    plain = mf.Hessian.matmat
    monkeypatch.setattr(mf.Hessian, "matmat", lambda self, v: multiplied.append(v.shape[1]) or plain(self, v))
    context = mf.Context(bilevel.at(bilevel.learner.init_meta(seeded())))
    method = InfluenceFunction(damping=20.0, **options)
    found = method.parameter_change(method.prepare(context), context.singles())
    assert found.solve.products == sum(multiplied) - 4, "measuring the residuals does not count"


def test_direct_if_adds_its_damping():
    bilevel = problem(tasks(4))
    context = mf.Context(bilevel.at(bilevel.learner.init_meta(seeded())))
    damping, removals = 0.7, [(0,), (1, 2)]
    direct = DirectIF(solver=EXACT, damping=damping)
    found = direct.parameter_change(direct.prepare(context), removals).values
    operator = context.point.hessian("held").dense() + damping * torch.eye(bilevel.size).double()
    wanted = torch.linalg.solve(operator, context.point.removed(removals, "task", "held"))
    assert torch.allclose(found, wanted, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("level", mf.WEIGHED)
@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("learner", ["logistic-head", "maml"])
def test_an_item_of_weight_two_is_worth_two_of_weight_one(learner, name, level):
    """A twin of weight 0 beside an item of weight 2, against both at weight 1: the same objective."""
    method = METHODS[name]
    if level not in method.levels:
        pytest.skip("the method has no answer there")
    drawn = tasks(4)
    for half in (drawn.support, drawn.query):
        half.inputs[1], half.targets[1] = half.inputs[0], half.targets[0]
        half.inputs[:, 2], half.targets[:, 2] = half.inputs[:, 0], half.targets[:, 0]
    bilevel = BilevelProblem(LEARNERS[learner](), drawn, 0.7, EXACT)
    meta, twin = bilevel.learner.init_meta(seeded()), 1 if level == "task" else 2
    ones = Weights.ones(drawn)
    targets = mf.Targets(bilevel, tasks(3, seed=5), meta, mean=False)
    checkpoint = mf.Checkpoint(1, 0.1, meta) if name == "tracin" else None

    def scores(weights: Weights) -> torch.Tensor:
        context = mf.Context(bilevel.at(meta, weights), level, checkpoints=(checkpoint,) if checkpoint else ())
        return mf.attribute(method, context, targets).values

    both, one = scores(ones), scores(ones.set(level, 0, 2.0).set(level, twin, 0.0))
    assert torch.allclose(one[0], both[0] + both[twin], rtol=1e-8, atol=1e-12)
    assert torch.allclose(both[0], both[twin], rtol=1e-8, atol=1e-12)
    assert not one[twin].any()


@pytest.mark.parametrize("level", mf.WEIGHED)
@pytest.mark.parametrize("name", ["influence", "grad-ascent", "tracin"])
def test_an_item_named_twice_in_a_removal_counts_once(name, level):
    bilevel = problem(tasks(4))
    meta = bilevel.learner.init_meta(seeded())
    checkpoints = (mf.Checkpoint(1, 0.1, meta),) if name == "tracin" else ()
    context = mf.Context(bilevel.at(meta, random_weights(bilevel, 2)), level, checkpoints=checkpoints)
    state = METHODS[name].prepare(context)
    once, twice = (METHODS[name].parameter_change(state, r).values for r in ([(3, 1)], [(3, 1, 3)]))
    assert torch.equal(once, twice)
    scores = torch.randn(4, 2, generator=seeded())
    assert torch.equal(mf.group_scores(scores, [(3, 1)]), mf.group_scores(scores, [(1, 3, 3)]))


def test_a_bank_of_other_weights_is_refused():
    bilevel = problem(tasks(3))
    fit = NEWTON.fit(bilevel, generator=seeded())
    bank = mf.RetrainBank(bilevel, fit, NEWTON, Serial())
    context = mf.Context(bilevel.at(fit.meta, random_weights(bilevel, 0)), bank=bank)
    with pytest.raises(InputError, match="other weights"):
        mf.build("method", "retrain").prepare(context)
    mf.build("method", "retrain").prepare(replace(context, point=bilevel.at(fit.meta)))


def test_weights_are_scaled_by_a_factor():
    weights = Weights.ones(tasks(2)).set("query", 3, 0.5)
    found = weights.scaled("query", [3, 3, 5], 0.5).query.flatten()
    assert found[3] == 0.25
    assert found[5] == 0.5
    assert float(found.sum()) == 12 - 1.25

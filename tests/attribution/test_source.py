"""source against what it tends to: the derivative of the run itself, and influence at a minimum."""

from dataclasses import replace

import pytest
import torch

import metafluence as mf
from metafluence import BilevelProblem, Context, InputError, Targets
from metafluence_plugins.curvatures.exact import ExactCurvature
from metafluence_plugins.curvatures.gauss_newton import GaussNewtonCurvature
from metafluence_plugins.methods.influence import InfluenceFunction
from metafluence_plugins.methods.source import ApproximateUnrolling
from metafluence_plugins.trainers.adam import Adam
from metafluence_plugins.trainers.adamw import AdamW
from metafluence_plugins.trainers.momentum import Momentum
from metafluence_plugins.trainers.rmsprop import RMSprop
from metafluence_plugins.trainers.sgd import SGD
from parts import EXACT, LEARNERS
from small_problems import problem, seeded, tasks

REMOVALS = [(0,), (3,), (2, 4)]


def recorded(trainer, learner: str = "maml", start: torch.Tensor | None = None) -> mf.TrainingRun:
    bilevel = BilevelProblem(LEARNERS[learner](), tasks(), 0.3, EXACT)
    run = replace(trainer, record=True).fit(bilevel, init=start, generator=seeded()).run
    assert run is not None
    return run


def change(run: mf.TrainingRun, method: mf.AttributionMethod, level: mf.Level = "task") -> torch.Tensor:
    context = Context(run.problem.at(run.final), level, run=run)
    found = method.parameter_change(method.prepare(context), REMOVALS)
    assert found is not None
    return found.values


@pytest.mark.parametrize("level", mf.WEIGHED)
@pytest.mark.parametrize(
    "trainer",
    [
        SGD(steps=6, batch=6, learning_rate=0.05),
        SGD(steps=6, batch=3, learning_rate=0.05, order="epochs", weight_decay=0.4),
    ],
    ids=["full batches", "minibatches"],
)
def test_with_small_steps_and_a_segment_for_each_it_is_the_runs_derivative(trainer, level):
    errors = []
    for share in (1.0, 0.5):
        run = recorded(replace(trainer, learning_rate=share * trainer.learning_rate))
        wanted = mf.run_tangent(run, REMOVALS, level)
        found = change(run, ApproximateUnrolling(segments=6, curvature=ExactCurvature()), level)
        errors.append(float((found - wanted).norm() / wanted.norm()))
    # Its error is of first order in the rate: it has exp(-ηH) in place of I - ηH.
    assert errors[0] < 0.05
    assert errors[1] < 0.65 * errors[0]


def test_one_long_segment_at_a_minimum_is_influence():
    fit = mf.build("trainer", "newton", tolerance=1e-12).fit(BilevelProblem(LEARNERS["maml"](), tasks(), 0.3, EXACT))
    run = recorded(SGD(steps=1, batch=6, learning_rate=1e-200), start=fit.meta)
    still = replace(run, rates=(1e5,))  # a step as long as can be; at a minimum it goes nowhere
    for curvature in (ExactCurvature(), GaussNewtonCurvature()):
        influence = InfluenceFunction(curvature, mf.build("solver", "exact"))
        torch.testing.assert_close(
            change(still, ApproximateUnrolling(segments=1, curvature=curvature)),
            change(still, influence),
            rtol=1e-4,
            atol=1e-7,
        )


@pytest.mark.parametrize("level", mf.WEIGHED)
def test_scores_are_the_targets_change_along_predicted_parameters(level):
    run = recorded(AdamW(steps=12, batch=2, learning_rate=0.02, weight_decay=0.3, eps_root=1e-3))
    context = Context(run.problem.at(run.final), level, run=run)
    targets = Targets(run.problem, tasks(4, seed=1), run.final, mean=False)
    scores = mf.attribute(ApproximateUnrolling(), context, targets).values
    wanted = change(run, ApproximateUnrolling(), level).T @ targets.gradients()
    sums = torch.stack([scores[list(removal)].sum(dim=0) for removal in REMOVALS])
    torch.testing.assert_close(sums, wanted, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize(
    "trainer",
    [
        Momentum(steps=40, batch=6, learning_rate=0.01, momentum=0.7),
        Adam(steps=40, batch=6, learning_rate=0.002, eps_root=0.3),
        RMSprop(steps=40, batch=6, learning_rate=0.002, eps_root=0.3),
    ],
    ids=["momentum", "adam", "rmsprop"],
)
def test_it_knows_what_optimisers_make_of_a_gradient(trainer):
    run = recorded(trainer)
    wanted = mf.run_tangent(run, REMOVALS)
    found = change(run, ApproximateUnrolling(segments=6, curvature=ExactCurvature()))
    plain = change(replace(run, rule=mf.SGDStep()), ApproximateUnrolling(segments=6, curvature=ExactCurvature()))
    error, without = (float((one - wanted).norm() / wanted.norm()) for one in (found, plain))
    assert error < 0.2  # moments take time to settle, and their own derivative is left out
    assert without > 1.5 * error


@pytest.mark.parametrize(
    "rule", [mf.SGDStep(), mf.MomentumStep(nesterov=True), mf.MomentumStep(), mf.AdamStep(), mf.RMSpropStep()]
)
def test_a_rules_gain_is_how_far_a_constant_gradient_moves_it(rule):
    gradient = torch.tensor([0.3, -2.0], dtype=torch.float64)
    before = state = rule.start(torch.zeros(2, dtype=torch.float64))
    for _ in range(3000):
        before, state = state, rule.step(state, gradient, 0.01)
    torch.testing.assert_close(before.meta - state.meta, 0.01 * rule.gain(state) * gradient, rtol=1e-6, atol=0)


def test_kronecker_factors_take_no_products_and_follow_the_curvature_they_stand_for():
    fit = Adam(steps=12, batch=3, learning_rate=0.02, record=True).fit(problem(), generator=seeded())
    run = fit.run
    assert run is not None
    context = Context(run.problem.at(run.final), run=run)
    targets = Targets(run.problem, tasks(4, seed=1), run.final)
    direct = mf.build("curvature", "direct", form="gauss-newton")
    wanted = mf.attribute(ApproximateUnrolling(curvature=direct), context, targets)
    found = mf.attribute(ApproximateUnrolling(curvature=direct, ek_fac=True), context, targets)
    assert found.solve.products == 0 < wanted.solve.products
    assert float((found.values - wanted.values).norm() / wanted.values.norm()) < 0.3
    assert not torch.allclose(found.values, wanted.values, rtol=1e-6)


def test_steps_at_a_rate_of_zero_change_nothing():
    run = recorded(SGD(steps=4, batch=3, learning_rate=0.1))
    later = replace(run, rates=(*run.rates, 0.0, 0.0), batches=(*run.batches, *run.batches[:2]))
    still = replace(later, states=mf.training.kept_states.KeptStates(), every=6)
    for step in (0, 6):
        still.states.put(replace(run.state(min(step, 4)), step=step))
    found = [change(one, ApproximateUnrolling(segments=count)) for one, count in ((run, 2), (still, 3))]
    torch.testing.assert_close(*found)


def test_what_it_cannot_answer_is_refused_or_said():
    run = recorded(SGD(steps=4, batch=3, learning_rate=0.1, clip=0.01))
    context = Context(run.problem.at(run.final), run=run)
    targets = Targets(run.problem, tasks(2, seed=1), run.final)
    assert "clipped its gradients" in mf.attribute(ApproximateUnrolling(), context, targets).notes[0]
    with pytest.raises(InputError, match=r"segments is 5 for a run of 4 steps. Give at most 4"):
        mf.attribute(ApproximateUnrolling(segments=5), context, targets)
    with pytest.raises(InputError, match="recorded run"):
        mf.attribute(ApproximateUnrolling(), replace(context, run=None), targets)
    with pytest.raises(mf.SolverError, match="works on the layers of a network"):
        mf.attribute(ApproximateUnrolling(ek_fac=True), context, targets)

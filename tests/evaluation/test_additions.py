"""Candidates: what adding tasks that were not trained on does, against exact fits with them."""

from dataclasses import replace
from itertools import product

import pytest
import torch
from hypothesis import given, settings, strategies as st

import metafluence as mf
from metafluence import BilevelProblem, InputError, Weights
from metafluence.testing.worlds import world
from metafluence_plugins.executors.serial import Serial
from metafluence_plugins.methods.gradient_similarity import GradientSimilarity
from metafluence_plugins.methods.influence import InfluenceFunction
from metafluence_plugins.methods.loss import LossScore
from metafluence_plugins.methods.retrain import Retrain
from metafluence_plugins.methods.run_influence import RunInfluence
from metafluence_plugins.methods.task_if import TaskIF
from metafluence_plugins.methods.trak import TRAK
from parts import EXACT, LEARNERS, NEWTON
from small_problems import seeded, tasks, with_origins

INFLUENCE = InfluenceFunction(solver=EXACT)


def asked(learner: str = "logistic-head", level: mf.Level = "task", seed: int = 0, l2: float = 0.5):
    """A context with three candidates, and targets."""
    bilevel = BilevelProblem(LEARNERS[learner](), tasks(4, seed), l2, EXACT)
    fit = NEWTON.fit(bilevel, generator=seeded(seed))
    bank = mf.RetrainBank(bilevel, fit, NEWTON, Serial())
    context = mf.Context(bilevel.at(fit.meta), level, bank=bank)
    return context.adding(with_origins(tasks(3, seed + 1))), mf.Targets(bilevel, tasks(3, seed + 2), fit.meta)


def joined_fit(context: mf.Context, own: Weights) -> torch.Tensor:
    """λ of the fit with the candidates under some weights, from its own objective, stacked by hand."""
    assert context.candidates is not None
    first, second = context.problem.tasks, context.candidates.problem.tasks
    support, query = [mf.Batch(*(torch.cat([getattr(getattr(t, half), part) for t in (first, second)])
              for part in ("inputs", "targets"))) for half in ("support", "query")]  # fmt: skip
    whole = mf.TaskSet(support, query, first.ids + second.ids)
    ones = Weights.ones(first)
    task, support, query = (torch.cat([getattr(w, level) for w in (ones, own)]) for level in mf.WEIGHED)
    weights = Weights(task, support, query)
    return NEWTON.fit(replace(context.problem, tasks=whole), weights, context.point.meta).meta


def along(context: mf.Context, item: int, scale: float, weight: float = 0.0) -> torch.Tensor:
    """λ without an item minus λ with it, its tasks added with weight `scale`; or with its weights times `weight`."""
    own = Weights.ones(context.scored.problem.tasks)
    held = torch.zeros_like(own.task)
    held[own.tasks_of(context.level, [item])] = scale
    whole = replace(own, task=held)
    return joined_fit(context, whole.scaled(context.level, [item], weight)) - joined_fit(context, whole)


def small(change, h: float = 1e-3) -> torch.Tensor:
    """The derivative at zero of what vanishes there; weights are not negative, so from one side, of third order."""
    return (32 * change(h) - 12 * change(2 * h) + change(4 * h)) / (12 * h)


@pytest.mark.parametrize(
    ("learner", "level"),
    [*product(["logistic-head", "ridge-head"], ["task", "query", "class"]), ("imaml", "task"), ("maml", "task")],
)
@given(seed=st.integers(0, 2**20))
@settings(max_examples=1)
def test_scores_of_candidates_are_the_derivative_of_exact_fits_with_them(learner, level, seed):
    context, targets = asked(learner, level, seed)
    item = seed % context.items
    state = INFLUENCE.prepare(context)
    found = INFLUENCE.parameter_change(state, [(item,)]).values[:, 0]
    wanted = small(lambda step: along(context, item, step))
    assert float((found - wanted).norm()) <= 1e-6 * float(wanted.norm())
    score = INFLUENCE.scores(state, targets).values[item]
    assert torch.allclose(score, targets.gradients().T @ found, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("level", ["support", "image"])
def test_an_instance_to_adapt_on_has_its_part_in_what_its_task_adds(level):
    """The derivative by its weight of the derivative by its task's."""
    context, _ = asked(level=level)
    found = INFLUENCE.parameter_change(INFLUENCE.prepare(context), [(0,)]).values[:, 0]

    def by_weight(step: float) -> torch.Tensor:
        less, more, far, near = (along(context, 0, step, 1 + t) for t in (-0.01, 0.01, -0.02, 0.02))
        return (8 * (less - more) - (far - near)) / 0.12

    wanted = small(by_weight, 4e-3)
    assert float((found - wanted).norm()) <= 1e-5 * float(wanted.norm())


@pytest.mark.parametrize("level", ["task", "query", "image"])
def test_added_is_the_fit_with_the_item_against_that_without(level):
    context, targets = asked(level=level)
    found = mf.added(context, [(1,), (2,)])
    for place, item in enumerate((1, 2)):
        wanted = along(context, item, 1.0)
        assert torch.allclose(found.change[:, place], wanted, atol=1e-8)
    assert not found.complaint
    if level != "task":
        return
    scores = Retrain().scores(Retrain().prepare(context), targets).values
    assert torch.allclose(scores[1:3], found.loss_change(targets), atol=1e-10)


def test_adding_a_task_that_helps_lowers_the_loss_and_scores_above_zero():
    context, targets = asked(seed=3)
    copies = targets.problem.tasks
    context = replace(context, candidates=None).adding(copies)  # the targets themselves
    scores = INFLUENCE.scores(INFLUENCE.prepare(context), targets).values
    true = mf.added(context).loss_change(targets)
    assert float(scores.sum()) > 0
    assert float(true.sum()) > 0
    assert float(scores.sum()) == pytest.approx(float(true.sum()), rel=0.5)


def test_a_candidate_that_is_trained_on_has_the_score_of_its_response():
    """Per unit weight, a copy of a task of the fit has that task's score."""
    context, targets = asked()
    twin = replace(context.problem.tasks, ids=tuple(f"twin-{i}" for i in range(4)))
    for method in (INFLUENCE, TaskIF(solver=EXACT), GradientSimilarity(), LossScore()):
        plain = mf.attribute(method, replace(context, candidates=None), targets).values
        assert torch.allclose(mf.attribute(method, context.adding(twin), targets).values, plain, rtol=1e-8)


@pytest.mark.parametrize("method", [TRAK(dim=4), RunInfluence()])
def test_methods_that_know_the_fit_alone_refuse_candidates(method):
    context, targets = asked()
    with pytest.raises(InputError, match="cannot score candidates"):
        mf.attribute(method, context, targets)


def test_what_cannot_be_asked_of_candidates_is_refused():
    context, _ = asked()
    with pytest.raises(InputError, match="leave_out: false"):
        InfluenceFunction(leave_out=True).prepare(context)
    with pytest.raises(InputError, match=r"no candidate: context\.adding"):
        mf.added(replace(context, candidates=None))
    with pytest.raises(InputError, match="no bank"):
        mf.added(replace(context, bank=None))
    fewer = replace(context, candidates=None).adding(context.problem.tasks)
    with pytest.raises(InputError, match="Two tasks are called"):
        mf.added(fewer)


def test_a_run_that_never_drew_the_candidates_refuses_them():
    here = world(0)
    run = here.run
    fit = mf.Fit(run.final, 0.0, False, run.steps, 0, 0.0, run=run)
    asked = mf.Context(here.problem.at(run.final)).adding(here.validation)
    replays = mf.RetrainBank(here.problem, fit, NEWTON, Serial(), start="replay")
    near = mf.RetrainBank(here.problem, fit, NEWTON, Serial(), start=mf.Proximal(0.1))
    for bank, says in ((replays, "never drew these tasks"), (near, "start='warm'")):
        with pytest.raises(InputError, match=says):
            mf.added(replace(asked, bank=bank))

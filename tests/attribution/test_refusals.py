"""What a method cannot answer is refused wherever it is asked, and what it returns is checked."""

from dataclasses import dataclass, replace

import pytest
import torch

import metafluence as mf
from metafluence.testing.worlds import world
from metafluence_plugins.methods.direct_if import DirectIF
from metafluence_plugins.methods.ekfac_if import EKFACIF
from metafluence_plugins.methods.influence import InfluenceFunction
from metafluence_plugins.methods.task_if import TaskIF
from metafluence_plugins.methods.tracin import TracIn
from parts import EXACT
from refusals import refused
from small_problems import tasks


@pytest.mark.parametrize(
    ("method", "level"),
    [(DirectIF(), "support"), (EKFACIF(), "support"), (TaskIF(), "query"), (TaskIF(), "support")],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_a_level_without_an_answer_is_refused_when_a_method_is_prepared(method, level):
    context = world(0).context(level)
    with refused(f"does not support level '{level}'; its levels are"):
        method.prepare(context)
    with refused(f"does not support level '{level}'"):
        mf.attribute(method, context, world(0).targets())


def test_there_are_three_levels():
    with refused(r"There is no level 'tasks'\. Give one of task, support, query"):
        mf.Context(world(0).context("task").point, "tasks")


def test_tracin_without_checkpoints_is_refused():
    context = replace(world(0).context("task"), checkpoints=())
    with refused(r"pass Context\(checkpoints=fit.checkpoints\)"):
        TracIn().prepare(context)


def test_targets_of_another_problem_are_refused():
    here = world(0)
    elsewhere = mf.Targets(here.problem, here.validation, here.fit.meta + 1e-3)
    other = world(0, "imaml").targets()
    for targets in (elsewhere, other):
        with refused("targets are not at the context's meta-parameters"):
            mf.attribute(InfluenceFunction(), here.context("task"), targets)


@pytest.mark.parametrize("name", mf.default_registry().names("method"))
def test_targets_of_another_problem_are_refused_in_scores_called_by_hand(name):
    here, method = world(0), mf.build("method", name)
    context = here.context(next(level for level in mf.WEIGHED if level in method.levels), run=method.needs_run)
    meta = context.point.meta
    state = method.prepare(context)
    others = [mf.Targets(here.problem, here.validation[:1], meta + 1e-3)] * (not method.needs_run)
    for targets in (*others, world(0, "imaml").targets()):
        with refused("targets are not at the context's meta-parameters"):
            method.scores(state, targets)


def test_scores_away_from_a_minimum_carry_a_note():
    here = world(0)
    away = here.fit.meta + 0.1
    context = replace(here.context("task"), point=here.problem.at(away))
    found = mf.attribute(InfluenceFunction(), context, mf.Targets(here.problem, here.validation, away))
    gradient = float(here.problem.at(away).gradient.norm())
    assert any(f"λ* is no minimum: ‖∇F‖ is {gradient:.1e}" in note for note in found.notes)
    at = mf.attribute(InfluenceFunction(), here.context("task"), here.targets())
    assert not at.notes


@dataclass(frozen=True)
class Wrong(mf.AttributionMethod):
    """Returns what it is given."""

    values: torch.Tensor = torch.zeros(7, 1)
    unit: str = "rank_only"

    def prepare(self, context: mf.Context) -> None:
        return None

    def scores(self, state: None, targets: mf.Targets) -> mf.Scores:
        return mf.Scores(self.values, "task", self.unit)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    ("method", "sentence"),
    [
        (Wrong(torch.zeros(7, 3)), r"Wrong returned scores of shape \[7, 3\] .* of shape \[items, 1\]"),
        (Wrong(torch.zeros(7)), r"shape \[7\]"),
        (Wrong(torch.zeros(7, 1, dtype=torch.int64)), "Return a tensor of real ones of shape"),
        (Wrong(torch.zeros(6, 1)), "6 rows of scores for 7 items of level 'task'"),
        (Wrong(unit="bananas"), "units 'bananas'. Set units to one of loss_change, rank_only"),
        (Wrong(torch.tensor([[1.0]] * 6 + [[float("nan")]])), "1 scores that are not finite"),
    ],
    ids=("columns", "flat", "integers", "rows", "units", "nan"),
)
def test_what_a_method_returns_is_checked(method, sentence):
    with refused(sentence):
        mf.attribute(method, world(0).context("task"), world(0).targets(mean=True))


@pytest.mark.parametrize("returned", [None, torch.zeros(7, 1), [0.0] * 7])
def test_a_method_returns_scores(returned):
    class Other(Wrong):
        def scores(self, state, targets):
            return returned

    with refused(f"Other returned a {type(returned).__name__} for scores. Return Scores"):
        mf.attribute(Other(), world(0).context("task"), world(0).targets(mean=True))
    with refused("Wrong returned scores of shape .* and type list. Return a tensor"):
        mf.attribute(Wrong([0.0] * 7), world(0).context("task"), world(0).targets(mean=True))


def test_ekfac_if_takes_the_diagonal_of_other_layers_where_its_error_says_so():
    train, held = tasks(4), tasks(2, seed=3)
    module = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.LayerNorm(3), torch.nn.Linear(3, 2))
    problem = mf.BilevelProblem(mf.build("learner", "joint", backbone=module, ways=2), train, 0.1, EXACT)
    meta = problem.learner.init_meta(torch.Generator().manual_seed(0))
    context, targets = mf.Context(problem.at(meta), "task"), mf.Targets(problem, held, meta)
    with refused("Set unsupported: diagonal", mf.SolverError):
        mf.attribute(EKFACIF(damping=1.0), context, targets)
    found = mf.attribute(EKFACIF(damping=1.0, unsupported="diagonal"), context, targets).values
    solver = mf.build("solver", "ek-fac", unsupported="diagonal")
    wanted = mf.build("method", "influence", curvature="gauss-newton", solver=solver, damping=1.0)
    torch.testing.assert_close(found, mf.attribute(wanted, context, targets).values, rtol=1e-9, atol=1e-12)

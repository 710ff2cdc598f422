"""What methods predict of parameters: the same that their scores say, and for grad-ascent its steps taken otherwise."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings, strategies as st

import metafluence as mf
from metafluence import Context, Weights
from metafluence.bilevel.linearisation import Jacobian
from metafluence.testing import central_difference
from metafluence.testing.problems import problems
from metafluence.testing.worlds import World, world
from metafluence_plugins.backbones.mlp import MLP
from metafluence_plugins.curvatures.exact import ExactCurvature
from metafluence_plugins.curvatures.gauss_newton import GaussNewtonCurvature
from metafluence_plugins.learners.joint import Joint
from metafluence_plugins.methods.direct_if import DirectIF
from metafluence_plugins.methods.ekfac_if import EKFACIF
from metafluence_plugins.methods.grad_ascent import GradAscent
from metafluence_plugins.methods.influence import InfluenceFunction
from metafluence_plugins.methods.tracin import TracIn
from metafluence_plugins.solvers.exact import Exact
from parts import NEWTON

# By name: the method, and the gradients of the targets that it goes by.
EDITING: dict[str, tuple[mf.AttributionMethod, Jacobian]] = {
    "influence": (InfluenceFunction(solver=Exact()), "total"),
    "leave-out": (InfluenceFunction(solver=Exact(), leave_out=True), "total"),
    "gauss-newton": (InfluenceFunction(GaussNewtonCurvature(), Exact(), damping=0.2), "total"),
    "grad-ascent": (GradAscent(), "total"),
    "direct-if": (DirectIF(Exact()), "held"),
    "ekfac-if": (EKFACIF(), "held"),
    "tracin": (TracIn(), "total"),
    "tracin-partial": (TracIn("partial"), "held"),
}


@pytest.mark.parametrize("level", mf.WEIGHED)
@pytest.mark.parametrize("name", EDITING)
def test_scores_are_the_losses_first_order_along_the_edits(name, level):
    method, jacobian = EDITING[name]
    if level not in method.levels or (level == "support" and name == "tracin-partial"):
        pytest.skip("the method does not judge these")
    here = world(0)
    context, targets = replace(here.context(level), checkpoints=here.checkpoints[:1]), here.targets()
    state = method.prepare(context)
    found = method.scores(state, targets).values
    if method.needs_checkpoints:
        targets = targets.at(here.checkpoints[0].taken_at)
    wanted = method.parameter_change(state, context.singles()).values.T @ targets.gradients(jacobian)
    assert float(wanted.abs().max()) > 1e-4
    assert torch.allclose(found, wanted, rtol=1e-8, atol=1e-11)


def removed_part(here: World, context: Context, removal: mf.Removal, meta: torch.Tensor) -> torch.Tensor:
    """D_λ of what the removed items add to F, by differences of total gradients; to first order for support items."""
    ones = Weights.ones(here.problem.tasks)
    if context.level != "support":  # F is linear in their weights
        gone = here.problem.at(meta, ones.without(context.level, removal)).gradient
        return here.problem.at(meta, ones).gradient - gone

    def gradient(weight):
        return here.problem.at(meta, ones.set("support", removal, float(weight))).gradient

    one = torch.ones((), dtype=torch.float64)
    value, error = central_difference(gradient, one, one)
    assert error < 1e-8
    return value


@pytest.mark.parametrize("learner", ["logistic-head", "maml"])
@pytest.mark.parametrize("level", mf.WEIGHED)
def test_grad_ascent_steps_up_what_is_removed(level, learner):
    here = world(0, learner)
    context, removals = here.context(level), [(3,), (0, 2, 6)]
    for steps in (1, 4):
        method = GradAscent(steps, 0.1)
        found = method.parameter_change(method.prepare(context), removals).values
        for removal, change in zip(removals, found.T, strict=True):
            meta = here.fit.meta
            for _ in range(steps):
                meta = meta + 0.1 * removed_part(here, context, removal, meta)
            assert float(change.norm()) > 1e-4
            assert torch.allclose(here.fit.meta + change, meta, atol=1e-8)


@given(problem=problems(lambda: Joint(MLP(())), Exact(), min_tasks=4, real=True), data=st.data())
@settings(max_examples=15)
def test_where_the_loss_is_quadratic_edits_without_the_removed_curvature_are_retraining(problem, data):
    """However many tasks are removed at once; first order is not."""
    count = len(problem.tasks)
    removal = tuple(sorted(data.draw(st.sets(st.integers(0, count - 1), min_size=2, max_size=count - 1))))
    fit = NEWTON.fit(problem, generator=torch.Generator().manual_seed(0))
    without = Weights.ones(problem.tasks).without("task", removal)
    wanted = NEWTON.fit(problem, without, fit.meta).meta - fit.meta
    for curvature in (ExactCurvature(), GaussNewtonCurvature()):
        method = InfluenceFunction(curvature, Exact(), leave_out="edits")
        state = method.prepare(Context(problem.at(fit.meta)))
        found = method.parameter_change(state, [removal]).values[:, 0]
        assert torch.allclose(found, wanted, atol=1e-7 * (1 + float(wanted.norm())))
    first = replace(method, leave_out=False)
    found = first.parameter_change(first.prepare(Context(problem.at(fit.meta))), [removal]).values[:, 0]
    assert float((found - wanted).norm()) > 1e-3 * float(wanted.norm())

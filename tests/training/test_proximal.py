"""Proximal models: the derivative is Gauss-Newton influence, the objective is the one of the formula."""

import pickle

import pytest
import torch
from torch.nn.functional import kl_div

import metafluence as mf
from metafluence.testing import central_difference
from metafluence.training import proximal
from metafluence_plugins.backbones.mlp import MLP
from metafluence_plugins.executors.serial import Serial
from metafluence_plugins.learners.joint import Joint
from parts import EXACT, LEARNERS, NEWTON, VARIANTS
from refusals import refused
from small_problems import seeded, tasks

DAMPING = 0.5


def trial(name: str, l2: float = 0.1) -> tuple[mf.BilevelProblem, torch.Tensor, mf.Weights]:
    """A problem, a λ_T far from every minimum, and weights that are not all one."""
    problem = mf.BilevelProblem(LEARNERS[name](), tasks(3, noise=1.5, flip=0.2), l2, EXACT)
    meta = problem.learner.init_meta(seeded())
    meta = meta + 0.2 * torch.randn(len(meta), generator=seeded(1), dtype=torch.float64)
    weights = mf.Weights.ones(problem.tasks).set("task", 1, 0.6).set("query", 4, 0.7).set("support", 3, 1.3)
    return problem, meta, weights


# MAML stands for what is unrolled.
SLOW = ("imaml", "anil")


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] * (n in SLOW)) for n in LEARNERS])
def test_its_derivative_by_a_weight_is_gauss_newton_influence(name):
    problem, meta, weights = trial(name)
    near = mf.Proximal(DAMPING).near(problem, meta, weights)
    method = mf.build("method", "influence", curvature="gauss-newton", damping=DAMPING, solver=EXACT)
    for level, item in (("task", 1), ("query", 4), ("support", 3)):
        context = mf.Context(problem.at(meta, weights), level=level)
        removed = method.parameter_change(method.prepare(context), [(item,)]).values[:, 0]
        one = getattr(weights, level).flatten()[item].reshape(1)

        def fitted(weight, level=level, item=item):
            fit = near.fit(weights.set(level, item, float(weight)))
            assert fit.converged
            return fit.meta

        found = central_difference(fitted, one, torch.ones(1, dtype=torch.float64), step=0.02)
        wanted = -removed / float(one)
        assert (level == "support" and name == "joint") or float(wanted.norm()) > 1e-4
        torch.testing.assert_close(found.value, wanted, rtol=0, atol=1e-6 * max(float(wanted.norm()), 1e-3))


def objective(problem, meta, weights, damping):
    """The formula, written with predictions alone: divergences of predictions, not of outputs."""
    other, base = weights, mf.Weights.ones(problem.tasks)
    held = problem.at(meta, base).predictions.log_softmax(dim=-1)

    def value(at):
        here = problem.at(at, base)
        apart = kl_div(here.predictions.log_softmax(dim=-1), held, reduction="none", log_target=True)
        change = (other.task * problem.at(at, other).task_losses).sum() - here.task_losses.sum()
        size = (problem.l2 + damping) / 2 * (at - meta).square().sum()
        return apart.sum(dim=-1).mean(dim=1).sum() + size + change

    return value


@pytest.mark.parametrize(("level", "removal"), [("task", (1,)), ("query", (0, 5, 7)), ("support", (3, 9))])
def test_it_is_the_minimum_of_its_formula(level, removal):
    problem, meta, _ = trial("maml")
    ones = mf.Weights.ones(problem.tasks)
    weights = ones.without(level, removal)
    fit = mf.Proximal(DAMPING).near(problem, meta, ones).fit(weights)
    assert fit.converged
    value = objective(problem, meta, weights, DAMPING)
    lowest = value(fit.meta)
    assert float(lowest) < float(value(meta)) - 1e-5
    for seed in range(3):
        direction = torch.randn(len(meta), generator=seeded(seed), dtype=torch.float64)
        slope = central_difference(value, fit.meta, direction)
        assert abs(float(slope.value)) < 1e-6 * float(direction.norm())
        assert float(value(fit.meta + 0.01 * direction)) > float(lowest)


def test_with_all_items_the_model_stays_where_it_is():
    for name in ("maml", "ridge-head"):
        problem, meta, weights = trial(name)
        fit = mf.Proximal(DAMPING).near(problem, meta, weights).fit(weights)
        assert fit.converged
        torch.testing.assert_close(fit.meta, meta, rtol=0, atol=1e-12)
    problem, meta, weights = trial("joint")
    fit = mf.Proximal(DAMPING).near(problem, meta, weights).fit(weights.without("support", 2))
    assert fit.converged, "nothing adapts, so that nothing is to be done"
    torch.testing.assert_close(fit.meta, meta, rtol=0, atol=1e-12)


def test_at_a_minimum_of_a_model_with_linear_outputs_it_is_exact_retraining():
    """All divergences together are then F itself but for a constant."""
    problem = mf.BilevelProblem(Joint(MLP(())), tasks(6), 0.3, EXACT)
    fit = NEWTON.fit(problem)
    exact, near = (
        mf.RetrainBank(problem, fit, NEWTON, Serial(), start=start).leave_out([(0,), (2, 4)]).meta
        for start in ("warm", mf.Proximal(0.0))
    )
    assert float((exact - fit.meta.unsqueeze(1)).norm()) > 0.1
    torch.testing.assert_close(near, exact, rtol=0, atol=1e-6)


def test_the_factor_changes_nothing_but_the_steps(monkeypatch):
    problem, meta, weights = trial("protonet")
    without = weights.without("task", 2)
    whole = mf.Proximal(DAMPING).near(problem, meta, weights)
    monkeypatch.setattr(proximal, "DENSE", 0)
    plain = mf.Proximal(DAMPING).near(problem, meta, weights)
    assert plain.factor is None
    first, second = whole.fit(without), plain.fit(without)
    assert second.converged
    assert first.steps < second.steps
    torch.testing.assert_close(first.meta, second.meta, rtol=0, atol=1e-6 * float((first.meta - meta).norm()))


def test_a_bank_keeps_each_model_under_its_damping(tmp_path):
    problem, meta, _ = trial("protonet")
    fit = mf.Fit(meta, 1.0, False, 0, 0, 0.0)
    banks = [mf.RetrainBank(problem, fit, NEWTON, Serial(), tmp_path / str(d), mf.Proximal(d)) for d in (0.5, 2.0)]
    weak, strong = (bank.leave_out([(0,), (1, 2)]).meta for bank in banks)
    assert float((weak - meta.unsqueeze(1)).norm()) > 1.1 * float((strong - meta.unsqueeze(1)).norm())
    by_hand = mf.Proximal(0.5).near(problem, meta, mf.Weights.ones(problem.tasks))
    without = mf.Weights.ones(problem.tasks).without("task", [1, 2])
    assert torch.equal(by_hand.fit(without).meta, weak[:, 1])
    assert torch.equal(pickle.loads(pickle.dumps(by_hand)).fit(without).meta, weak[:, 1])
    said: list[str] = []
    other = mf.RetrainBank(problem, fit, NEWTON, Serial(), tmp_path / "0.5", mf.Proximal(2.0), notice=said.append)
    assert torch.equal(other.leave_out([(0,)]).meta[:, 0], strong[:, 0]), (
        "of the same folder, but not of the same truth"
    )
    assert "another start" in said[0]


def test_what_is_not_defined_is_refused(monkeypatch):
    with refused("damping"):
        mf.Proximal(-1.0)
    first_order = mf.BilevelProblem(VARIANTS["maml-first-order"](), tasks(3), 0.1, EXACT)
    meta = first_order.learner.init_meta(seeded())
    with refused("MAML is set to first-order gradients, which are those of no loss"):
        mf.Proximal(1.0).near(first_order, meta, mf.Weights.ones(first_order.tasks))
    problem, meta, weights = trial("protonet", l2=0.0)
    with refused("Without l2 and damping the proximal model is not unique"):
        mf.Proximal(0.0).near(problem, meta, weights)
    monkeypatch.setattr(type(problem.learner), "output_loss", None)
    with refused("ProtoNet declares no output_loss"):
        mf.Proximal(1.0).near(problem, meta, weights)

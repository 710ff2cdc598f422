"""Curvatures other than the exact one, against dense matrices made by differences."""

from dataclasses import replace

import pytest
import torch
from hypothesis import assume, given, strategies as st

import metafluence as mf
from how_many import examples
from metafluence import InputError
from metafluence.testing import central_jacobian
from metafluence.testing.differences import ROUNDING, SETTLED
from metafluence.testing.problems import problems, random_meta
from metafluence_plugins.curvatures.fisher import FisherCurvature
from metafluence_plugins.curvatures.gamma import GammaCurvature
from metafluence_plugins.curvatures.gauss_newton import GaussNewtonCurvature
from metafluence_plugins.curvatures.no_third_order import NoThirdOrderCurvature
from metafluence_plugins.learners.imaml import IMAML
from metafluence_plugins.methods.task_if import TaskIF
from metafluence_plugins.solvers.exact import Exact
from parts import EXACT, LEARNERS

each_learner = pytest.mark.parametrize("learner", LEARNERS.values(), ids=LEARNERS.keys())
# Inner minimisation makes imaml's examples ten times as long as others'.
each_quick_learner = pytest.mark.parametrize(
    "learner",
    [pytest.param(make, id=name, marks=pytest.mark.slow if name == "imaml" else ()) for name, make in LEARNERS.items()],
)


def drawn(data, learner) -> tuple[mf.BilevelProblem, torch.Tensor, mf.Weights]:
    problem = data.draw(problems(learner, EXACT))
    weights = mf.Weights.ones(problem.tasks).set("task", 0, 0.4).set("query", 1, 0.5).set("support", 0, 0.7)
    return problem, random_meta(problem), weights


@each_quick_learner
@given(data=st.data())
@examples(4)
def test_gauss_newton_is_made_of_the_derivative_of_adapted_outputs(learner, data):
    problem, meta, weights = drawn(data, learner)
    point = problem.at(meta, weights)
    # d(outputs for the query)/dλ through adaptation, [N, n_q, C, P]
    jacobian, error = central_jacobian(lambda m: problem.at(m, weights).predictions, meta)
    assume(error <= SETTLED * float(jacobian.norm()))
    p = point.predictions.softmax(-1)
    at_outputs = torch.diag_embed(p) - p.unsqueeze(-1) * p.unsqueeze(-2)
    scale = weights.task.unsqueeze(1) * weights.query / weights.query.shape[1]
    wanted = torch.einsum("nq,nqap,nqab,nqbr->pr", scale, jacobian, at_outputs, jacobian)
    wanted += problem.l2 * torch.eye(problem.size, dtype=torch.float64)
    operator = GaussNewtonCurvature().at(point)
    dense = operator.dense()
    # A softmax's Hessian is at most 1/2.
    bound = float(scale.max() * jacobian.norm()) * error + ROUNDING * float(wanted.norm())
    assert float((dense - wanted).norm()) <= bound
    assert float(torch.linalg.eigvalsh((dense + dense.T) / 2)[0]) >= problem.l2 - 1e-9
    assert mf.PSD in operator.tags


def plain(problem: mf.BilevelProblem, task: int, weights: mf.Weights):
    """One task's outer loss as a function of λ and θ joined, by autograd alone."""
    learner, query = problem.learner, problem.tasks.query[task : task + 1]

    def loss(both: torch.Tensor) -> torch.Tensor:
        meta, theta = both[: problem.size], both[problem.size :]
        features = learner.encode(meta, query.inputs[0]).unsqueeze(0)
        batch = mf.Batch(features, query.targets)
        rows = meta[learner.own].unsqueeze(0)
        return learner.outer_loss(rows, theta.unsqueeze(0), batch, weights.query[task : task + 1])[0]

    return loss


@each_quick_learner
@given(data=st.data())
@examples(3)
def test_without_third_order_it_is_the_outer_losses_own_hessian_along_adaptation(learner, data):
    problem, meta, weights = drawn(data, learner)
    point = problem.at(meta, weights)
    moved, error = central_jacobian(lambda m: problem.at(m, weights).adapted, meta)
    assume(error <= SETTLED * (1 + float(moved.norm())))
    bound = 0.0
    wanted = problem.l2 * torch.eye(problem.size, dtype=torch.float64)
    gamma = 0.0
    for i, weight in enumerate(weights.task.tolist()):
        both = torch.cat([meta, point.adapted[i]])
        loss = plain(problem, i, weights)
        jacobian = torch.cat([torch.eye(problem.size, dtype=torch.float64), moved[i]])
        hessian = torch.autograd.functional.hessian(loss, both)
        wanted += weight * jacobian.T @ hessian @ jacobian
        bound += 2 * weight * float(hessian.norm() * jacobian.norm()) * error
        gradient = torch.autograd.functional.jacobian(loss, both)[problem.size :]
        assert torch.allclose(point.outer_gradients()[i], gradient, atol=1e-10)
        gamma += weight * float(gradient.abs().sum())
    found = NoThirdOrderCurvature().at(point).dense()
    assert float((found - wanted).norm()) <= bound + ROUNDING * float(wanted.norm())
    shifted = GammaCurvature().at(point).dense()
    eye = torch.eye(problem.size, dtype=torch.float64)
    assert torch.allclose(shifted, found + gamma * eye, atol=1e-9)
    # One point serves all forms, in any order.
    fresh = problem.at(meta, weights)
    assert torch.allclose(point.hessian().dense(), fresh.hessian().dense(), atol=1e-10)


@each_learner
@given(data=st.data())
@examples(5)
def test_its_products_do_not_depend_on_chunks(learner, data):
    problem, meta, weights = drawn(data, learner)
    whole = problem.at(meta, weights).hessian(form="gauss-newton").dense()
    small = replace(problem, memory_gib=1e-9)
    assert torch.allclose(small.at(meta, weights).hessian(form="gauss-newton").dense(), whole, atol=1e-10)


@pytest.mark.parametrize("curvature", [GaussNewtonCurvature(), FisherCurvature()], ids=["gauss-newton", "fisher"])
@given(data=st.data())
@examples(5)
def test_leaving_a_task_out_takes_its_own_part_from_the_same_curvature(curvature, data):
    problem, meta, _ = drawn(data, LEARNERS["logistic-head"])
    point = problem.at(meta)
    method = TaskIF(curvature, Exact(), leave_out=True)
    context = mf.Context(point)
    state = method.prepare(context)
    found = method.parameter_change(state, context.singles()).values
    for i in range(len(problem.tasks)):
        without = problem.at(meta, point.weights.without("task", i))
        wanted = torch.linalg.solve(curvature.at(without).dense(), point.task_gradients()[:, i])
        assert float((found[:, i] - wanted).norm()) <= 1e-8 * max(1.0, float(wanted.norm()))


class NoOutputLoss(IMAML):
    """Its losses are its own."""

    output_loss = None

    def inner_loss(self, rows, adapted, support, weights):
        losses = mf.cross_entropy(self.predict(rows, adapted, support.inputs), support.targets)
        return mf.weighted_mean(losses, weights) + self.proximal / 2 * (adapted - rows).square().sum(dim=-1)

    def outer_loss(self, rows, adapted, query, weights):
        return mf.weighted_mean(mf.cross_entropy(self.predict(rows, adapted, query.inputs), query.targets), weights)


@given(data=st.data())
@examples(2)
def test_a_learner_without_an_output_loss_is_refused(data):
    problem = data.draw(problems(lambda: NoOutputLoss(LEARNERS["imaml"]().backbone), EXACT))
    with pytest.raises(InputError, match=r"output_loss.*exact"):
        problem.at(random_meta(problem)).hessian(form="gauss-newton").matmat(torch.ones(problem.size, 1).double())


@pytest.mark.parametrize("loss", [mf.SoftmaxLoss(), mf.SquaredLoss()], ids=lambda x: type(x).__name__)
def test_output_losses_agree_with_autograd(loss):
    generator = torch.Generator().manual_seed(0)
    f, t = (torch.randn(4, 3, generator=generator, dtype=torch.float64) for _ in range(2))
    softmax = isinstance(loss, mf.SoftmaxLoss)
    y = torch.tensor([0, 2, 1, 1]) if softmax else torch.randn(4, 3, generator=generator, dtype=torch.float64)
    single = mf.cross_entropy if softmax else mf.squared_error
    for i in range(4):
        hessian = torch.as_tensor(torch.func.hessian(lambda x, i=i: single(x, y[i]))(f[i]))
        gradient = torch.as_tensor(torch.func.grad(lambda x, i=i: single(x, y[i]))(f[i]))
        roots = loss.roots(f)[:, i]
        assert torch.allclose(roots.T @ roots, hessian, atol=1e-12)
        assert torch.allclose(loss.curvature(f, t.unsqueeze(0))[0, i], hessian @ t[i], atol=1e-12)
        assert torch.allclose(loss.observed(f, y)[i], gradient, atol=1e-12)
    many = loss.sampled(f.expand(40_000, -1, -1), generator)
    second = torch.einsum("snc,snd->ncd", many, many) / len(many)
    exact = torch.einsum("knc,knd->ncd", loss.roots(f), loss.roots(f))
    assert float((second - exact).abs().max()) < 0.05  # 40,000 draws: standard errors are below 0.008

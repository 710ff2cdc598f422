"""Learners, backbones, flat modules and the optimisers under them."""

import higher
import pytest
import torch
from hypothesis import given, strategies as st
from torch import nn

import metafluence as mf
from how_many import examples
from metafluence import Batch, BilevelProblem, FlatModule, InputError, TaskSet
from metafluence.testing import assert_derivative, central_difference
from metafluence.testing.problems import random_meta, task_sets
from metafluence_plugins.backbones.mlp import MLP
from metafluence_plugins.backbones.small_conv import SmallConv
from metafluence_plugins.learners.imaml import IMAML
from metafluence_plugins.learners.logistic_head import LogisticHead
from parts import EXACT, LEARNERS

each_learner = pytest.mark.parametrize("learner", LEARNERS.values(), ids=LEARNERS.keys())


def images(count: int = 3, ways: int = 2, size: int = 4) -> TaskSet:
    generator = torch.Generator().manual_seed(0)

    def half(n: int) -> Batch:
        inputs = torch.randn(count, n, 1, size, size, generator=generator, dtype=torch.float64)
        return Batch(inputs, torch.arange(n).remainder(ways).expand(count, -1).clone())

    return TaskSet(half(4), half(4), tuple(str(i) for i in range(count)))


@given(task_sets())
@examples(15)
def test_closed_form_inner_hessian_is_the_autograd_one(tasks):
    learner = LogisticHead(MLP((3,)), penalty=0.2).bind(tasks)
    generator = torch.Generator().manual_seed(0)
    adapted = torch.randn(len(tasks), learner.adapted_size, generator=generator, dtype=torch.float64)
    features = learner.encode(learner.init_meta(None), tasks.support.inputs.flatten(0, 1))
    support = Batch(features.detach().unflatten(0, tasks.support.targets.shape), tasks.support.targets)
    rows = learner.init_meta(None).expand(len(tasks), -1)
    weights = torch.rand(tasks.support.targets.shape, generator=generator, dtype=torch.float64)
    closed = learner.inner_hessian(rows, adapted, support, weights).dense()
    automatic = mf.InnerHessian(learner, rows, adapted, support, weights).dense()
    assert torch.allclose(closed, automatic, atol=1e-12)


@pytest.mark.parametrize("optimiser", ["newton", "lbfgs", "gradient"])
def test_imaml_reaches_one_minimum_by_every_optimiser(optimiser):
    tasks = images()
    reference = BilevelProblem(IMAML(MLP((2,)), 2.0, "newton"), tasks, 1.0, EXACT)
    meta = random_meta(reference)
    learner = IMAML(MLP((2,)), 2.0, optimiser, max_iterations=5000)
    point = BilevelProblem(learner, tasks, 1.0, EXACT).at(meta)
    assert bool(point.adaptation.converged.all())
    assert torch.allclose(point.adapted, reference.at(meta).adapted, atol=1e-8)


def test_an_adaptation_that_was_cut_short_says_so():
    learner = IMAML(MLP((2,)), 0.5, "gradient", max_iterations=2)
    problem = BilevelProblem(learner, images(), 1.0, EXACT)
    point = problem.at(random_meta(problem))
    assert not bool(point.adaptation.converged.any())
    assert float(point.adaptation.gradient_norm.min()) > 1e-6


def test_total_gradient_agrees_with_unrolled_differentiation_by_higher():
    """An independent oracle: many differentiable SGD steps on the proximal loss, unrolled by another library."""
    tasks = images(count=2)
    module = nn.Sequential(nn.Flatten(), nn.Linear(16, 2), nn.Tanh(), nn.Linear(2, 2)).double()
    problem = BilevelProblem(IMAML(module, proximal=2.0), tasks, 0.0, EXACT)
    meta = random_meta(problem)
    flat = FlatModule(module, torch.float64)
    leaf = meta.clone().requires_grad_()
    total = torch.zeros((), dtype=torch.float64)
    for i in range(len(tasks)):
        optimiser = torch.optim.SGD(module.parameters(), lr=0.25)
        with higher.innerloop_ctx(module, optimiser, copy_initial_weights=False) as (functional, steps):
            sizes = [p.numel() for p in module.parameters()]
            start = [part.reshape(p.shape) for part, p in zip(leaf.split(sizes), module.parameters(), strict=True)]
            functional.update_params(start)
            for _ in range(120):
                theta = torch.cat([p.reshape(-1) for p in functional.parameters()])
                logits = functional(tasks.support.inputs[i])
                loss = nn.functional.cross_entropy(logits, tasks.support.targets[i])
                steps.step(loss + (theta - leaf).square().sum())
            logits = functional(tasks.query.inputs[i])
            total = total + nn.functional.cross_entropy(logits, tasks.query.targets[i])
    (unrolled,) = torch.autograd.grad(total, leaf)
    assert flat.size == problem.size
    found = problem.at(meta).gradient
    assert (found - unrolled).norm() < 1e-9 * unrolled.norm()


@pytest.mark.parametrize(
    "learner",
    [LogisticHead(SmallConv((2,)), penalty=0.5), IMAML(SmallConv((2,)), proximal=2.0)],
    ids=["logistic-head", "imaml"],
)
def test_convolutional_backbones_have_exact_derivatives(learner):
    problem = BilevelProblem(learner, images(), 0.5, EXACT)
    meta = random_meta(problem)
    direction = torch.randn(problem.size, 1, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    point = problem.at(meta)
    difference = central_difference(lambda m: problem.at(m).gradient, meta, direction[:, 0])
    assert_derivative(point.hessian().matmat(direction)[:, 0], difference)
    several = torch.cat([direction, 2 * direction, -direction], dim=1)
    assert torch.allclose(point.hessian().matmat(several)[:, 1], 2 * point.hessian().matmat(direction)[:, 0])
    assert torch.allclose(point.task_gradients().sum(dim=1) + 0.5 * meta, point.gradient)
    own = point.product_each(direction.expand(-1, 3))
    assert torch.allclose(own.sum(dim=1) + 0.5 * direction[:, 0], point.hessian().matmat(direction)[:, 0])


def test_float32_works_where_it_is_asked_for():
    tasks = images().to(dtype=torch.float32)
    problem = BilevelProblem(LogisticHead(MLP((3,)), penalty=0.5), tasks, 1.0, EXACT)
    point = problem.at(random_meta(problem))
    double = BilevelProblem(LogisticHead(MLP((3,)), penalty=0.5), images(), 1.0, EXACT).at(point.meta.double())
    assert point.gradient.dtype == torch.float32
    assert (point.gradient - double.gradient).norm() < 1e-4 * double.gradient.norm()


def test_a_module_of_ones_own_is_used_as_it_is_and_left_as_it_is():
    module = nn.Sequential(nn.Flatten(), nn.Linear(16, 3), nn.Tanh())
    before = [p.detach().clone() for p in module.parameters()]
    problem = BilevelProblem(LogisticHead(module, penalty=0.3), images(), 1.0, EXACT)
    assert torch.equal(problem.learner.init_meta(None).float(), torch.cat([p.reshape(-1) for p in before]))
    problem.at(random_meta(problem)).hessian().dense()
    assert all(torch.equal(a, b) for a, b in zip(before, module.parameters(), strict=True))


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (
            nn.Sequential(nn.Flatten(), nn.Linear(16, 2), nn.BatchNorm1d(2)),
            r"Layer '2'.*BatchNorm1d.*running statistics.*mf.per_task_norms",
        ),
        (nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(16, 2)), r"Layer '1'.*Dropout.*random"),
        (nn.Flatten(), "no trainable parameter"),
        (nn.Conv2d(1, 2, 3), r"features of shape \[2, 2, 2\].*nn.Flatten"),
    ],
)
def test_modules_that_cannot_be_used_are_refused_by_name(module, message):
    with pytest.raises(InputError, match=message):
        BilevelProblem(LogisticHead(module, penalty=0.3), images(), 1.0, EXACT)


def test_parameters_that_nothing_depends_on_get_zeros():
    class Spare(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.spare = nn.Linear(16, 2), nn.Linear(3, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.used(x.flatten(1)).tanh()

    for learner in (LogisticHead(Spare(), penalty=0.3), IMAML(Spare(), proximal=1.0)):
        problem = BilevelProblem(learner, images(), 0.0, EXACT)
        point = problem.at(random_meta(problem))
        assert not point.gradient[-12:].any()
        assert point.gradient[:-12].all()
        assert not point.hessian().dense()[-12:].any()


def test_learners_say_what_they_need():
    with pytest.raises(InputError, match=r"penalty is 0.0, but a number above 0"):
        LogisticHead(MLP(), penalty=0.0)
    with pytest.raises(InputError, match=r"proximal is -1.0, but a number above 0"):
        IMAML(MLP(), proximal=-1.0)
    with pytest.raises(InputError, match="BilevelProblem, or call bind"):
        LogisticHead(MLP()).init_meta(None)
    with pytest.raises(InputError, match="3 classes, but LogisticHead is set to ways=2"):
        BilevelProblem(LogisticHead(MLP(), ways=2), images(ways=3), 1.0, EXACT)
    with pytest.raises(InputError, match=r"l2 is -1.0, but a number at least 0"):
        BilevelProblem(LogisticHead(MLP()), images(), -1.0, EXACT)
    problem = BilevelProblem(LogisticHead(MLP((2,))), images(), 1.0, EXACT)
    with pytest.raises(InputError, match=r"meta has shape \(3,\); this learner has \[34\]"):
        problem.at(torch.zeros(3).double())


def test_small_conv_says_what_it_cannot_do():
    with pytest.raises(InputError, match="takes images"):
        SmallConv().module(torch.Size([7]), None)
    with pytest.raises(InputError, match="leaves nothing"):
        SmallConv((2, 2, 2)).module(torch.Size([1, 4, 4]), None)
    with pytest.raises(InputError, match="activation is 'relo', but 'tanh' or 'softplus'"):
        MLP(activation="relo")  # pyright: ignore[reportArgumentType]


def test_fresh_parameters_come_from_the_generator_alone():
    flat = FlatModule(nn.Linear(3, 2), torch.float64)
    torch.manual_seed(5)
    state = torch.random.get_rng_state()
    one = flat.initial(torch.Generator().manual_seed(1))
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.manual_seed(6)
    assert torch.equal(one, flat.initial(torch.Generator().manual_seed(1)))
    assert not torch.equal(one, flat.initial(torch.Generator().manual_seed(2)))


@given(st.integers(0, 2**20), st.booleans())
@examples(20)
def test_minimisers_solve_a_stack_of_quadratics(seed, with_newton):
    generator = torch.Generator().manual_seed(seed)
    root = torch.randn(4, 3, 3, generator=generator, dtype=torch.float64)
    matrix = root @ root.mT + 0.3 * torch.eye(3).double()
    target = torch.randn(4, 3, generator=generator, dtype=torch.float64)

    def value(x):
        return 0.5 * ((x - target).unsqueeze(1) @ matrix @ (x - target).unsqueeze(2)).flatten()

    def gradient(x):
        return value(x), (matrix @ (x - target).unsqueeze(2)).squeeze(2)

    start = torch.zeros(4, 3).double()
    if with_newton:
        found = mf.minimise_newton(lambda x: (*gradient(x), matrix), value, start, 1e-10)
        assert found.iterations <= 2
    else:
        found = mf.minimise_lbfgs(gradient, start, 1e-10)
    assert bool(found.converged.all())
    assert torch.allclose(found.point, target, atol=1e-8)


def test_newton_leaves_a_saddle():
    """f = x⁴/4 − x²/2 + y² has a saddle at 0 and minima at x = ±1."""

    def evaluate(p):
        x, y = p[:, 0], p[:, 1]
        hessian = torch.diag_embed(torch.stack([3 * x**2 - 1, torch.full_like(x, 2.0)], dim=1))
        return x**4 / 4 - x**2 / 2 + y**2, torch.stack([x**3 - x, 2 * y], dim=1), hessian

    found = mf.minimise_newton(evaluate, lambda p: evaluate(p)[0], torch.tensor([[1e-3, 1.0]]).double(), 1e-12)
    assert torch.allclose(found.point, torch.tensor([[1.0, 0.0]]).double())


# What EK-FAC sees of a shared encoder, with the heads held.


@pytest.mark.parametrize("name", ["logistic-head", "joint"])
def test_the_outer_layers_are_those_of_all_query_instances_with_theta_held(name):
    """Their vectors at the features, pulled back to λ, make up the held Gauss-Newton matrix; and the shift is δ."""
    problem = mf.BilevelProblem(LEARNERS[name](), images(), 0.7, EXACT)
    weights = mf.Weights.ones(problem.tasks).set("query", 2, 0.3).set("task", 1, 2.0)
    point = problem.at(random_meta(problem), weights)
    operator = point.hessian("held", "gauss-newton")
    assert mf.LAYERED in operator.tags
    (loss,) = operator.structure.chunks()
    assert loss.shift == 0.7
    network, inputs = problem.learner.network, problem.tasks.query.inputs.flatten(0, 1)
    jacobian = torch.func.jacrev(lambda meta: network(meta, inputs))(point.meta)  # [m, d, P]
    pulled = torch.einsum("cmd,mdp->cmp", loss.loss.roots(loss.outputs)[:, 0], jacobian)
    found = torch.einsum("cmp,m,cmq->pq", pulled, loss.weights[0], pulled)
    wanted = operator.dense() - 0.7 * torch.eye(problem.size, dtype=torch.float64)
    assert float((found - wanted).norm() / wanted.norm()) < 1e-10
    columns = torch.randn(2, *loss.outputs.shape, dtype=torch.float64)
    roots = loss.loss.roots(loss.outputs)
    by_roots = torch.einsum("cnmd,cnme,knme->knmd", roots, roots, columns)
    assert torch.allclose(loss.loss.curvature(loss.outputs, columns), by_roots)


def test_a_learner_whose_layers_are_not_known_says_so():
    problem = mf.BilevelProblem(LEARNERS["imaml"](), images(), 0.7, EXACT)
    assert mf.LAYERED not in problem.at(random_meta(problem)).hessian("identity", "gauss-newton").tags
    parts = (torch.zeros(problem.size), torch.zeros(1, 1), problem.tasks.query, torch.ones(1, 1), 0.0)
    with pytest.raises(mf.InputError, match="does not know its layers"):
        problem.learner.outer_layers(*parts)

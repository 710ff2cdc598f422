"""Learners that adapt by a few steps: maml and anil, against `higher` on modules and against torch's optimisers."""

from dataclasses import replace

import higher
import pytest
import torch
from hypothesis import given, strategies as st
from torch import nn
from torch.nn.functional import cross_entropy

from how_many import examples
from metafluence import Batch, BilevelProblem, InputError, TaskSet, Weights, descend, loss_gradient
from metafluence.testing.problems import random_meta, task_sets
from metafluence_plugins.backbones.mlp import MLP
from metafluence_plugins.learners.anil import ANIL
from metafluence_plugins.learners.imaml import IMAML
from metafluence_plugins.learners.maml import MAML
from parts import EXACT

PLAIN = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}


def network() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()


def tasks(count: int = 3) -> TaskSet:
    generator = torch.Generator().manual_seed(0)

    def half(n: int) -> Batch:
        inputs = torch.randn(count, n, 3, generator=generator, dtype=torch.float64)
        return Batch(inputs, torch.arange(n).remainder(2).expand(count, -1).clone())

    return TaskSet(half(4), half(6), tuple(str(i) for i in range(count)))


def unrolled_by_higher(module: nn.Module, rule: str, rate: float, steps: int, head_only: bool) -> torch.Tensor:
    """∇λ Σ_i outer loss, task by task through `higher`'s functional modules, as its documentation shows."""
    adapting = module[-1] if head_only else module
    total = torch.zeros((), dtype=torch.float64)
    data = tasks()
    for i in range(len(data)):
        optimiser = PLAIN[rule](adapting.parameters(), lr=rate)
        with higher.innerloop_ctx(adapting, optimiser, copy_initial_weights=False) as (functional, inner):

            def run(x: torch.Tensor, functional: nn.Module = functional) -> torch.Tensor:
                return functional(module[:-1](x) if head_only else x)

            for step in range(steps):
                # higher adds Adam's eps before the bias is corrected, torch after it.
                override = {"eps": [1e-8 * (1 - 0.999 ** (step + 1)) ** 0.5]} if rule == "adam" else None
                inner.step(cross_entropy(run(data.support.inputs[i]), data.support.targets[i]), override=override)
            total = total + cross_entropy(run(data.query.inputs[i]), data.query.targets[i])
    parameters = list(module.parameters())
    return torch.cat([g.reshape(-1) for g in torch.autograd.grad(total, parameters)])


@pytest.mark.parametrize("rule", ["sgd", "adam"])
@pytest.mark.parametrize("steps", [1, 4])
def test_total_gradient_of_maml_is_the_one_by_higher(rule, steps):
    module = network()
    problem = BilevelProblem(MAML(module, steps=steps, rate=0.1, rule=rule), tasks(), 0.0, EXACT)
    wanted = unrolled_by_higher(module, rule, 0.1, steps, head_only=False)
    found = problem.at(problem.learner.init_meta(None)).gradient
    assert (found - wanted).norm() < 1e-12 * wanted.norm()


@pytest.mark.parametrize("rule", ["sgd", "adam"])
def test_total_gradient_of_anil_is_the_one_by_higher(rule):
    module = network()
    problem = BilevelProblem(ANIL(module[:-1], steps=3, rate=0.1, rule=rule), tasks(), 0.0, EXACT)
    wanted = unrolled_by_higher(module, rule, 0.1, 3, head_only=True)
    # The head is [C, d + 1] here, weight and bias in one row.
    head = torch.cat([module[-1].weight, module[-1].bias.unsqueeze(1)], dim=1).detach().flatten()
    meta = torch.cat([problem.learner.network.flat(), head])
    found = problem.at(meta).gradient
    weight, bias = wanted[16:24].reshape(2, 4), wanted[24:].unsqueeze(1)
    wanted = torch.cat([wanted[:16], torch.cat([weight, bias], dim=1).flatten()])
    assert (found - wanted).norm() < 1e-12 * wanted.norm()


@pytest.mark.parametrize("first_order", [False, True])
@pytest.mark.parametrize("memory_gib", [2.0, 1e-9])
def test_one_unroll_serves_a_gradient_pass(first_order, memory_gib):
    calls = []

    class Counting(MAML):
        def unroll(self, rows, support, weights, track):
            calls.append(len(rows))
            return super().unroll(rows, support, weights, track)

    learner = Counting(network(), steps=2, first_order=first_order)
    problem = BilevelProblem(learner, tasks(), 0.0, EXACT, memory_gib)
    meta = problem.learner.init_meta(None)
    for products in (True, False):
        problem.bytes_per_task(meta, products)
    calls.clear()
    point = problem.at(meta)
    assert point.gradient.any()
    assert sum(calls) == len(tasks())
    calls.clear()
    quality, gradient = loss_gradient(problem, meta)
    assert sum(calls) == len(tasks())
    assert torch.allclose(gradient, point.gradient, atol=1e-14)
    # What is asked afterwards is the same as from an adaptation of its own.
    fresh = problem.at(meta)
    assert quality.loss == pytest.approx(float(fresh.task_losses.mean()))
    for name in ("adapted", "task_losses", "predictions"):
        assert torch.equal(getattr(point, name), getattr(fresh, name))


@pytest.mark.parametrize("learner", [MAML(network(), steps=3, first_order=True)], ids=["maml"])
def test_first_order_takes_the_gradients_at_the_adapted_parameters(learner):
    problem = BilevelProblem(learner, tasks(), 0.0, EXACT)
    point = problem.at(problem.learner.init_meta(None))
    data = tasks()
    theta = point.adapted.clone().requires_grad_()
    logits = problem.learner.network.stacked(theta, data.query.inputs)
    loss = cross_entropy(logits.flatten(0, 1), data.query.targets.flatten(), reduction="sum") / 6
    (each,) = torch.autograd.grad(loss, theta)
    assert torch.allclose(point.gradient, each.sum(dim=0), atol=1e-14)
    exact = BilevelProblem(replace(learner, first_order=False), data, 0.0, EXACT).at(point.meta)
    assert torch.equal(exact.adapted, point.adapted)
    assert (exact.gradient - point.gradient).norm() > 1e-2 * exact.gradient.norm()
    assert not learner.exact


@given(data=task_sets(), steps=st.integers(1, 4))
@examples(10)
def test_adaptation_is_gradient_descent_as_torch_does_it(data, steps):
    learner = MAML(MLP((2,)), steps=steps, rate=0.05)
    problem = BilevelProblem(learner, data, 0.0, EXACT)
    meta = random_meta(problem)
    found = problem.at(meta).adapted
    for i in range(len(data)):
        theta = meta.clone().requires_grad_()
        optimiser = torch.optim.SGD([theta], lr=0.05)
        for _ in range(steps):
            optimiser.zero_grad()
            logits = problem.learner.network(theta, data.support.inputs[i])
            cross_entropy(logits, data.support.targets[i]).backward()
            optimiser.step()
        assert (found[i] - theta).abs().max() < 1e-13


def test_adam_survives_gradients_that_are_exactly_zero():
    """First never moved, then moved: as torch's Adam, and with finite derivatives of any order."""
    torch.manual_seed(0)
    start = torch.randn(1, 4, dtype=torch.float64)

    def loss(x: torch.Tensor) -> torch.Tensor:
        # The last never counts; the one before it only once the first has fallen by 0.25.
        late = torch.relu(start[0, 0] - 0.25 - x[:, 0]) * x[:, 2].square()
        return (x[:, 0] + 2).square() + x[:, 1].cosh() + late

    for steps in (1, 3, 6):
        parameter = start.clone().requires_grad_()
        optimiser = torch.optim.Adam([parameter], lr=0.1)
        for _ in range(steps):
            optimiser.zero_grad()
            loss(parameter).sum().backward()
            optimiser.step()
        found = descend(loss, start, "adam", 0.1, steps, track=False)
        assert (found - parameter).abs().max() < 1e-14
    assert parameter[0, 2] != start[0, 2]
    assert parameter[0, 3] == start[0, 3]

    def after(x: torch.Tensor) -> torch.Tensor:
        return descend(loss, x, "adam", 0.1, 6, track=True).square().sum()

    hessian = torch.autograd.functional.hessian(after, start).reshape(4, 4)
    assert bool(hessian.isfinite().all())
    assert hessian[3, 3] == 2


def test_one_rate_is_learned_for_each_layer():
    problem = BilevelProblem(MAML(network(), steps=1, rate=0.2, learn_rates="layer"), tasks(), 0.0, EXACT)
    learner = problem.learner
    meta = learner.init_meta(None)
    assert problem.size == learner.network.size + 2
    assert not meta[-2:].any()
    plain = BilevelProblem(MAML(network(), steps=1, rate=0.2), tasks(), 0.0, EXACT)
    assert torch.allclose(problem.at(meta).adapted, plain.at(meta[:-2]).adapted, atol=1e-15)
    # Ten times the rate of the second layer: its parameters move ten times as far, the first's as before.
    faster = meta.clone()
    faster[-1] = torch.log(torch.tensor(10.0))
    before, after = (problem.at(m).adapted - meta[:-2] for m in (meta, faster))
    assert torch.allclose(after[:, :16], before[:, :16], atol=1e-15)
    assert torch.allclose(after[:, 16:], 10 * before[:, 16:], atol=1e-14)


def test_more_steps_come_to_the_implicit_answer():
    """Steps without end on a strongly convex inner problem give the derivatives of its optimum."""
    data = tasks()

    class Proximal(MAML):
        """iMAML's inner problem by maml's steps."""

        def unroll(self, rows, support, weights, track):
            def loss(adapted):
                logits = self.network.stacked(adapted, support.inputs)
                losses = self.output_loss.values(logits, support.targets)
                return (losses * weights).mean(dim=1) + (adapted - rows).square().sum(dim=1)

            return descend(loss, rows, "sgd", 0.25, self.steps, track)

    implicit = BilevelProblem(IMAML(network(), proximal=2.0), data, 0.1, EXACT)
    meta = implicit.learner.init_meta(None)
    weights = Weights.ones(data).set("support", 1, 0.3)
    wanted = implicit.at(meta, weights)
    errors = []
    for steps in (10, 20, 80):
        found = BilevelProblem(Proximal(network(), steps=steps), data, 0.1, EXACT).at(meta, weights)
        columns = torch.eye(implicit.size, dtype=torch.float64)[:, :5]
        pairs = [
            (found.gradient, wanted.gradient),
            (found.hessian().matmat(columns), wanted.hessian().matmat(columns)),
            (found.responses("support"), wanted.responses("support")),
        ]
        errors.append(max(float((a - b).norm() / b.norm()) for a, b in pairs))
    assert errors[1] < 0.1 * errors[0]
    assert errors[2] < 1e-9


def test_they_say_what_they_need():
    with pytest.raises(InputError, match="MAML: steps is 0, but a whole number at least 1"):
        MAML(MLP(), steps=0)
    with pytest.raises(InputError, match=r"ANIL: rate is 0.0, but a number above 0"):
        ANIL(MLP(), rate=0.0)
    with pytest.raises(InputError, match="no model without adaptation"):
        MAML(MLP(), learn_rates="one").unadapted()
    with pytest.raises(InputError, match="no inner Hessian to solve with by Exact"):
        BilevelProblem(MAML(MLP((2,))), tasks(), 1.0, EXACT).solving_with(EXACT)

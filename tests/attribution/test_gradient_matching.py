"""Gradient matching against scikit-learn, dense least squares and all subsets of tiny problems."""

from dataclasses import replace
from itertools import combinations, pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from sklearn.linear_model import OrthogonalMatchingPursuit

import metafluence as mf
from metafluence import BilevelProblem, Context, Targets, Weights
from metafluence.testing.worlds import world
from metafluence_plugins.methods.gradient_matching import GradientMatching, coverage, pursuit
from parts import EXACT, LEARNERS
from refusals import refused
from small_problems import seeded, tasks

SEEDS = st.integers(0, 2**20)


def drawn(seed: int, rows: int, count: int, lean: float = 0.0) -> torch.Tensor:
    """Columns of [rows, count]; lean: how much they have in common."""
    columns = torch.randn(rows, count, generator=seeded(seed), dtype=torch.float64)
    return columns + lean * torch.randn(rows, 1, generator=seeded(seed + 1), dtype=torch.float64)


def left(columns: torch.Tensor, goal: torch.Tensor, chosen: list[int]) -> torch.Tensor:
    """What is left of the goal after least squares on the chosen columns, by numpy."""
    if not chosen:
        return goal
    own = columns[:, chosen].numpy()
    return goal - torch.from_numpy(own @ np.linalg.lstsq(own, goal.numpy(), rcond=None)[0])


@given(seed=SEEDS)
@settings(max_examples=20)
def test_pursuit_takes_the_largest_product_with_what_least_squares_leaves(seed):
    columns = drawn(seed, 9, 7, lean=1.0)
    goal = columns.sum(dim=1)
    order = pursuit(columns, goal).tolist()
    assert sorted(order) == list(range(7))
    sizes = [float(left(columns, goal, order[:k]).norm()) for k in range(8)]
    assert all(after < before for before, after in pairwise(sizes))
    assert sizes[-1] < 1e-8 * sizes[0]
    for k in range(7):
        products = columns.T @ left(columns, goal, order[:k])
        products[order[:k]] = -torch.inf
        assert order[k] == int(products.argmax())


@given(seed=SEEDS)
@settings(max_examples=20)
def test_pursuit_is_that_of_scikit_learn_where_no_product_is_negative(seed):
    """It takes the largest in size, of either sign: the same where columns are nearly at right angles."""
    columns = torch.eye(12, 8).double() + 0.02 * drawn(seed, 12, 8)
    goal = columns @ (1 + torch.rand(8, generator=seeded(seed), dtype=torch.float64))
    order = pursuit(columns, goal).tolist()
    for k in (1, 3, 6):
        fitted = OrthogonalMatchingPursuit(n_nonzero_coefs=k, fit_intercept=False).fit(columns, goal)
        assert sorted(np.flatnonzero(fitted.coef_)) == sorted(order[:k])


@given(seed=SEEDS)
@settings(max_examples=10)
def test_at_right_angles_and_of_one_length_pursuit_finds_the_best_subset_of_every_size(seed):
    columns = 2 * torch.linalg.qr(drawn(seed, 8, 6))[0]
    goal = columns @ (0.1 + torch.rand(6, generator=seeded(seed), dtype=torch.float64))
    order = pursuit(columns, goal).tolist()
    for k in range(1, 6):
        best = min(float(left(columns, goal, list(some)).norm()) for some in combinations(range(6), k))
        assert float(left(columns, goal, order[:k]).norm()) == pytest.approx(best)


def test_what_points_away_comes_last_and_is_never_taken_for_its_size():
    columns = torch.tensor([[-5.0, 1.0, 0.5, -1.0], [0.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.2, 0.0]]).double()
    assert pursuit(columns, torch.tensor([1.0, 0.0, 0.0]).double()).tolist() == [1, 2, 3, 0]
    nothing = torch.zeros(3, 2).double()
    assert pursuit(nothing, torch.ones(3).double()).tolist() == [0, 1]
    assert coverage(nothing).tolist() == [0, 1]


@given(seed=SEEDS)
@settings(max_examples=10)
def test_coverage_is_the_greedy_choice_and_near_the_best_subset_of_every_size(seed):
    """Nemhauser, Wolsey and Fisher 1978: at least 1 - 1/e of what the best subset gains."""
    columns = drawn(seed, 4, 7)
    gaps = torch.stack([(columns - columns[:, [j]]).norm(dim=0) for j in range(7)])
    largest = float(gaps.max())

    def gain(chosen: tuple[int, ...]) -> float:
        return 7 * largest - float(gaps[list(chosen)].amin(dim=0).clamp_max(largest).sum())

    order = coverage(columns).tolist()
    assert sorted(order) == list(range(7))
    for k in range(1, 7):
        found = gain(tuple(order[:k]))
        assert found == pytest.approx(max(gain((*order[: k - 1], j)) for j in range(7)))
        assert found >= (1 - 1 / np.e) * max(gain(some) for some in combinations(range(7), k))


def problem_and_targets(mean: bool):
    problem = BilevelProblem(LEARNERS["logistic-head"](), tasks(6), 1.0, EXACT)
    meta = problem.learner.init_meta(seeded(3))
    return problem, Targets(problem, tasks(3, seed=9), meta, mean), meta


@pytest.mark.parametrize("level", ["task", "query"])
def test_scores_are_minus_the_place_for_the_items_own_part_of_the_gradient(level):
    problem, targets, meta = problem_and_targets(mean=False)
    weights = Weights.ones(problem.tasks).set("task", 0, 0.01).set("query", 8, 3.0)
    context = Context(problem.at(meta, weights), level)
    columns = context.point.responses(level) * weights.of(level)
    if level == "task":  # the parts add up to the gradient
        assert torch.allclose(columns.sum(dim=1), context.point.partial_gradient("total"))
    found = {match: mf.attribute(GradientMatching(match), context, targets) for match in ("total", "each", "targets")}
    for scores in found.values():
        assert scores.units == "rank_only"
        assert torch.equal(
            scores.values.sort(dim=0).values, (torch.arange(context.items) + 1.0 - context.items)[:, None].expand(-1, 3)
        )
    assert torch.argsort(-found["total"].values[:, 2]).tolist() == pursuit(columns, columns.sum(dim=1)).tolist()
    assert torch.argsort(-found["each"].values[:, 0]).tolist() == coverage(columns).tolist()
    goals = targets.gradients()
    for j in range(3):
        assert torch.argsort(-found["targets"].values[:, j]).tolist() == pursuit(columns, goals[:, j]).tolist()
    plain = mf.attribute(GradientMatching(), Context(problem.at(meta), level), targets)
    assert not torch.equal(plain.values, found["total"].values), "weights count"


@given(seed=SEEDS)
@settings(max_examples=5)
def test_the_second_of_two_that_are_the_same_comes_last(seed):
    columns = drawn(seed, 9, 5, lean=1.0)[:, [0, 1, 2, 1, 3, 4]]
    assert pursuit(columns, columns.sum(dim=1)).tolist()[-1] == 3
    assert coverage(columns).tolist()[-1] == 3


@pytest.mark.parametrize("match", ["total", "each", "targets"])
def test_the_order_of_tasks_that_differ_changes_nothing(match):
    problem, targets, meta = problem_and_targets(mean=True)
    order = torch.arange(6).roll(2)
    usual, rolled = (
        mf.attribute(GradientMatching(match), Context(one.at(meta), "task"), targets).values
        for one in (problem, replace(problem, tasks=problem.tasks[order]))
    )
    assert torch.equal(rolled, usual[order])


def test_a_budget_keeps_what_was_chosen_first():
    here = world(0)
    context, targets = here.context("task"), here.targets(mean=True)
    values = mf.attribute(GradientMatching("targets"), context, targets).values[:, 0]
    found = mf.selected(context, targets, {"matching": values}, keep=3, draws=2)
    columns = context.point.responses("task") * context.point.item_weights("task")
    kept = set(range(7)) - set(found.removed["matching"])
    assert kept == set(pursuit(columns, targets.gradients()[:, 0])[:3].tolist())


def test_levels_whose_parts_do_not_add_up_to_the_gradient_are_refused():
    with refused("GradientMatching does not support level 'support'; its levels are task, query"):
        GradientMatching().prepare(world(0).context("support"))

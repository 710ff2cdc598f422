"""Split halves of runs: what Spearman and Brown's formula predicts for more runs is what more runs give."""

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from scipy.stats import spearmanr

from metafluence.evaluation.split_halves import Reliability, reliability


def drawn(runs: int, items: int, noise: float, seed: int) -> np.ndarray:
    """Effects that share a part of variance 1 beside noise of each run's own."""
    draws = np.random.default_rng(seed)
    return draws.normal(size=items) + noise * draws.normal(size=(runs, items))


@pytest.mark.parametrize("runs", [2, 7])
def test_it_is_the_squared_correlation_with_the_truth_of_infinitely_many_runs(runs):
    noise, items = 1.5, 800
    found = reliability(drawn(runs, items, noise, 0))
    assert found.runs == runs
    assert found.whole == pytest.approx(1 / (1 + noise**2 / runs), abs=0.05)  # of ranks a little less
    assert found.needed == pytest.approx(4 * noise**2, abs=3)
    assert found.usable == (found.whole >= 0.5)
    assert found.p == pytest.approx(1 / 200)


@pytest.mark.parametrize("runs", [2, 3, 4])
def test_a_few_runs_are_split_in_every_way(runs):
    """By hand: all pairs of disjoint halves."""
    effects = drawn(runs, 9, 1.0, 3)
    pairs = {
        2: [((0,), (1,))],
        3: [((0,), (1,)), ((0,), (2,)), ((1,), (2,))],
        4: [((0, 1), (2, 3)), ((0, 2), (1, 3)), ((0, 3), (1, 2))],
    }[runs]
    by_hand = [spearmanr(effects[list(a)].mean(axis=0), effects[list(b)].mean(axis=0))[0] for a, b in pairs]
    assert reliability(effects).halves == pytest.approx(np.mean(by_hand))


@given(runs=st.integers(2, 6), items=st.integers(3, 12), seed=st.integers(0, 999), shift=st.floats(-5, 5))
@settings(max_examples=5)
def test_what_all_items_share_and_the_order_of_runs_do_not_matter(runs, items, seed, shift):
    effects = drawn(runs, items, 1.0, seed)
    shifts = shift * np.arange(runs)[:, None]
    assert reliability(effects + shifts).halves == pytest.approx(reliability(effects).halves)
    assert 0 <= reliability(effects).whole <= 1


def test_runs_that_share_nothing_rank_no_method():
    usable = [reliability(np.random.default_rng(seed).normal(size=(4, 12))).usable for seed in range(20)]
    assert np.mean(usable) <= 0.1
    found = reliability(np.array([[1.0, 2, 3, 4, 5], [5.0, 4, 3, 2, 1]]))
    assert (found.halves, found.whole, found.needed) == (-1, 0, np.inf)
    said = found.sentence("single tasks")
    assert said.startswith("The procedure has no answer here: halves of 2 runs agree to -1.00 (p = 1)")
    assert "no method is ranked by it. What a method says holds for its own run only (`truth: {kind: run}`)." in said


def test_a_low_reliability_that_is_no_chance_ranks_no_method_either():
    found = reliability(drawn(4, 400, 3.0, 0))
    assert found.p <= 0.05
    assert found.whole < 0.5
    assert not found.usable
    assert "below 0.5" in found.sentence("sets of 3 tasks")
    assert f"A reliability of 0.8 would take {found.needed:.0f} runs." in found.sentence("sets of 3 tasks")


def test_an_exact_truth_is_usable_and_says_nothing():
    assert reliability(np.zeros((1, 8))).runs == 1
    assert Reliability().usable
    assert Reliability().sentence("single tasks") == ""

"""What a comparison of methods supports, against scipy, sklearn, closed testing and simulation."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, strategies as st
from scipy.stats import mannwhitneyu, spearmanr, t, ttest_1samp, ttest_rel
from sklearn.metrics import roc_auc_score

import metafluence as mf
from metafluence.evaluation.statistics import PERMUTATIONS, holm

NAMES = ("a", "b", "c", "d")


def test_an_interval_over_seeds_is_students_cut_off_at_the_bounds():
    values = np.array([0.3, 0.5, 0.45, 0.6])
    low, high = t.interval(0.95, 3, values.mean(), values.std(ddof=1) / 2)
    found = mf.mean_interval(values)
    assert (found.value, found.low, found.high) == pytest.approx((values.mean(), low, high))
    cut = mf.mean_interval([0.2, 0.99, 1.0], 0, 1)
    assert (cut.low, cut.high) == (0, 1)
    unbounded = mf.mean_interval([0.2, 0.99, 1.0])
    assert unbounded.low < 0
    assert unbounded.high > 1


@pytest.mark.parametrize("values", [[], [0.4], [0.4, 0.9], [0.4, 0.9, np.nan]])
def test_fewer_than_three_seeds_have_no_interval(values):
    found = mf.mean_interval(values, 0, 1)
    assert np.isnan(found.low)
    assert np.isnan(found.high)
    assert np.isnan(found.value) == (not values)


def test_intervals_of_bounded_quantities_cover():
    """Means of AUROC-like values, skewed to the upper bound: .95 within the simulation's error and the skew's."""
    draws = np.random.default_rng(0).beta(8, 2, size=(1000, 5))
    inside = [found.low <= 0.8 <= found.high for found in (mf.mean_interval(d, 0, 1) for d in draws)]
    assert 0.92 <= np.mean(inside) <= 0.98


@given(st.lists(st.floats(0, 1), min_size=1, max_size=4))
def test_holm_is_the_closure_of_bonferroni(p):
    """Adjusted p of i: the largest Bonferroni p of any set of hypotheses that holds i."""
    sets = [s for k in range(1, len(p) + 1) for s in combinations(range(len(p)), k)]
    expected = [max(min(1, len(s) * min(p[j] for j in s)) for s in sets if i in s) for i in range(len(p))]
    np.testing.assert_allclose(holm(p), expected, rtol=1e-12)


def test_holm_passes_over_what_is_not_known():
    np.testing.assert_array_equal(holm([np.nan, 0.01, 0.04]), [np.nan, 0.02, 0.04])


def test_means_are_compared_on_shared_seeds_by_students_t():
    values = np.array([[0.9, 0.8, 0.95, 0.85], [0.7, 0.75, 0.8, np.nan], [0.88, 0.84, 0.9, 0.86]])
    found = mf.compare_means(NAMES[:3], values, chance=0.5)
    assert found.best == "a"
    raw = {
        pair: ttest_rel(values[pair[0], :3], values[pair[1], :3]).pvalue if 1 in pair else
        ttest_rel(values[pair[0]], values[pair[1]]).pvalue
        for pair in combinations(range(3), 2)
    }  # fmt: skip
    adjusted = dict(zip(raw, holm(list(raw.values())), strict=True))
    rivals = {rival.name: rival for rival in found.rivals}
    assert rivals["b"].p == pytest.approx(adjusted[0, 1])
    assert rivals["c"].p == pytest.approx(adjusted[0, 2])
    interval = ttest_rel(values[0], values[2]).confidence_interval()
    assert (rivals["c"].difference.low, rivals["c"].difference.high) == pytest.approx(tuple(interval))
    alone = ttest_1samp(values[0], 0.5, alternative="greater").pvalue
    assert found.chance_p == pytest.approx(3 * alone)
    assert found.above_chance


def test_a_method_that_lost_a_seed_is_not_the_best():
    found = mf.compare_means(NAMES[:2], np.array([[0.99, np.nan, 0.99], [0.5, 0.6, 0.7]]))
    assert found.best == "b"


def test_smaller_is_better_where_it_is_said():
    losses = np.array([[2.0, 2.1, 1.9, 2.0], [1.0, 1.2, 0.9, 1.1]])
    found = mf.compare_means(NAMES[:2], losses, larger_is_better=False)
    assert found.best == "b"
    assert found.rivals[0].difference.value == pytest.approx(0.95)
    assert not found.ties


def test_two_seeds_tell_nothing_apart():
    found = mf.compare_means(NAMES[:2], np.array([[0.9, 0.9], [0.1, 0.1]]), chance=0.5)
    assert found.ties == ("b",)
    assert not found.above_chance
    assert np.isnan(found.rivals[0].difference.low)
    assert mf.compare_means(NAMES[:1], np.array([[np.nan]])) is None


def test_what_is_the_same_is_tied_and_what_is_unlike_is_not():
    generator = np.random.default_rng(3)
    true = generator.normal(size=40)
    good = true + 0.1 * generator.normal(size=40)
    predicted = np.stack([good, generator.normal(size=40), np.exp(good), np.full(40, np.nan)])
    found = mf.compare_spearman(NAMES, predicted, true)
    assert found.value == pytest.approx(spearmanr(good, true)[0])
    assert found.ties == ("c",), "a monotone map of the best one has its ranks"
    rivals = {rival.name: rival for rival in found.rivals}
    assert set(rivals) == {"b", "c"}
    assert rivals["c"].p == 1
    assert found.above_chance
    harmful = true > 0.1
    spotted = mf.compare_auroc(NAMES, -predicted, harmful)
    assert spotted.value == pytest.approx(roc_auc_score(harmful, good))
    assert spotted.ties == ("c",)
    assert spotted.above_chance
    errors = np.abs(np.stack([0.1 * predicted[1], 2 + predicted[1], 0.1 * predicted[1]]))
    nearest = mf.compare_medians(NAMES[:3], errors)
    assert nearest.best == "a"
    assert nearest.ties == ("c",)


def test_chance_of_detection_is_a_rank_sum_test():
    scores = np.random.default_rng(5).normal(size=16)
    harmful = np.zeros(16, dtype=bool)
    harmful[np.argsort(scores)[[0, 1, 3, 6]]] = True
    exact = mannwhitneyu(-scores[harmful], -scores[~harmful], alternative="greater", method="exact").pvalue
    found = mf.compare_auroc(["a"], scores, harmful)
    assert found.chance_p == pytest.approx(exact, abs=4 * np.sqrt(exact / PERMUTATIONS))
    assert found.value == pytest.approx(roc_auc_score(harmful, -scores))


def test_equal_scores_count_half():
    scores, harmful = np.array([1.0, 2.0, 2.0, 3.0, 3.0, 3.0, 4.0]), np.array([1, 1, 0, 0, 1, 0, 1], dtype=bool)
    assert mf.compare_auroc(["a"], scores, harmful).value == pytest.approx(roc_auc_score(harmful, -scores))


def test_too_few_items_tell_nothing_apart():
    scores = np.array([[0.0, 1.0, 2.0, 3.0], [3.0, 2.0, 1.0, 0.0]])
    harmful = np.array([True, True, False, False])
    found = mf.compare_auroc(NAMES[:2], scores, harmful)
    assert found.best == "a"
    assert found.ties == ("b",)
    assert not found.above_chance
    assert mf.compare_auroc(NAMES[:2], scores, np.zeros(4, dtype=bool)) is None


@pytest.mark.parametrize("metric", ["spearman", "auroc"])
def test_nothing_is_told_apart_where_all_methods_are_noise(metric):
    """Four methods of pure noise, the best one picked by looking: false claims stay near 5 %, of both kinds."""
    apart, above, runs = 0, 0, 50
    for seed in range(runs):
        generator = np.random.default_rng(seed)
        scores, true = generator.normal(size=(4, 20)), generator.normal(size=20)
        if metric == "spearman":
            found = mf.compare_spearman(NAMES, scores, true)
        else:
            found = mf.compare_auroc(NAMES, scores, np.arange(20) < 7)
        apart += len(found.ties) < 3
        above += found.above_chance
    # Of 50 runs at .05, at most 6 with probability .99
    assert apart <= 6
    assert above <= 6


def test_bounded_differences_have_bounded_intervals():
    scores = np.array([np.arange(8.0), -np.arange(8.0)])
    found = mf.compare_auroc(NAMES[:2], scores, np.arange(8) < 4)
    assert found.rivals[0].difference.value == 1
    assert found.rivals[0].difference.high <= 1
    noisy = np.random.default_rng(0).normal(size=(2, 5))
    for rival in mf.compare_spearman(NAMES[:2], noisy, np.arange(5.0)).rivals:
        assert -2 <= rival.difference.low <= rival.difference.high <= 2

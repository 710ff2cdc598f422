"""Detection of harmful items: the lowest scores are inspected first."""

import numpy as np
import pytest
from hypothesis import given, strategies as st

import metafluence as mf


def test_harmful_items_of_lowest_score_are_found_perfectly_and_of_highest_score_worst():
    harmful = np.array([False, True, False, True, False, False])
    scores = np.array([3.0, -2.0, 1.0, -1.0, 2.0, 4.0])
    best, worst = mf.detection(scores, harmful), mf.detection(-scores, harmful)
    assert (best.auroc, best.average_precision, best.found_at(2 / 6)) == (1, 1, 1)
    assert worst.auroc == 0
    assert worst.average_precision == pytest.approx((1 / 5 + 2 / 6) / 2)
    assert worst.found_at(4 / 6) == 0


@given(st.permutations(range(9)), st.integers(1, 8))
def test_average_precision_is_the_mean_precision_where_a_harmful_item_is_found(order, count):
    scores, harmful = np.array(order, dtype=float), np.arange(9) < count
    inspected = harmful[np.argsort(scores)]
    precision = [inspected[: i + 1].mean() for i in range(9) if inspected[i]]
    found = mf.detection(scores, harmful)
    assert found.average_precision == pytest.approx(np.mean(precision))
    pairs = [scores[i] < scores[j] for i in range(count) for j in range(count, 9)]
    assert found.auroc == pytest.approx(np.mean(pairs))


def test_a_share_of_so_many_items_is_so_many():
    """0.29 times 100 is a little less than 29 in floating point."""
    found = mf.detection(np.arange(100.0), np.arange(100) % 3 == 0)
    assert [found.found_at(count / 100) for count in range(101)] == found.found.tolist()

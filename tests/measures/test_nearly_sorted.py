"""Ranks of many lists against SciPy's, one list at a time."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import rankdata

from upweight.measures.nearly_sorted import WINDOW, rank_sums, sort_nearly_sorted


@pytest.mark.parametrize("m", [1, 2, WINDOW // 2, WINDOW, 3 * WINDOW - 1, 5 * WINDOW + 7])
@pytest.mark.parametrize("far", [0.0, 1e-3, 1.0])
def test_lists_of_every_length_are_sorted_however_far_they_are_from_it(m, far):
    rng = np.random.default_rng(m)
    lists = np.linspace(0, 1, m) + far * rng.normal(size=(4, m))
    expected = np.sort(lists, axis=1)
    sort_nearly_sorted(lists)
    assert np.array_equal(lists, expected)


@given(seed=st.integers(0, 100), m=st.integers(2, 300), values=st.integers(1, 400))
def test_rank_sums_by_the_mean_of_both_ways_of_breaking_ties(seed: int, m: int, values: int):
    rng = np.random.default_rng(seed)
    lists, marked = rng.integers(-values, values, (3, m)) / 7.0, rng.random(m) < 0.4
    ranks, tied = rank_sums(lists.copy(), marked)
    of_others, tied_again = rank_sums(lists.copy(), ~marked)
    expected = [float(rankdata(row)[marked].sum()) - marked.sum() for row in lists]
    assert np.allclose((ranks + m * (m - 1) / 2 - of_others) / 2, expected, rtol=0, atol=1e-9)
    across = any(np.isin(row[marked], row[~marked]).any() for row in lists)
    assert tied == tied_again == across
    assert tied or np.array_equal(ranks, expected)


def test_the_lists_stay_as_they_were():
    lists = np.array([[2.0, 1.0]])
    rank_sums(lists, np.array([True, False]))
    assert lists.tolist() == [[2.0, 1.0]]

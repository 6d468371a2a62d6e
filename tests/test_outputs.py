"""Targets in every form: what they become, and what is said of those that do not fit."""

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from upweight import Logistic, Softmax, Squared
from upweight.outputs import encoded, first_not_finite, one_per_example


@pytest.mark.parametrize(
    ("loss", "c", "y", "wanted"),
    [
        (Softmax(), 3, [2, 0, 1], [2, 0, 1]),
        (Softmax(), 3, np.array([2.0, 0.0, 1.0], dtype=np.float32), [2, 0, 1]),
        (Logistic(), 1, [0, 1, 1], [-1.0, 1.0, 1.0]),
        (Logistic(), 1, torch.tensor([-1, 1, 1]), [-1.0, 1.0, 1.0]),
        (Logistic(), 1, pd.Series([True, False, True]), [1.0, -1.0, 1.0]),
        (Logistic(), 3, pd.Series([2, 0, 1], index=[7, 8, 9]), [2, 0, 1]),
        (Squared(), 1, [1, 2, 3], [[1.0], [2.0], [3.0]]),
        (Squared(), 2, np.arange(6).reshape(3, 2), [[0.0, 1.0], [2.0, 3.0], [4.0, 5.0]]),
    ],
)
def test_targets_become_what_the_loss_computes_with(loss, c: int, y, wanted):
    found = encoded(loss, y, 3, c)
    assert found.tolist() == wanted
    assert found.dtype in (torch.int64, torch.float64)


@pytest.mark.parametrize("y", [5, [1, 2], np.zeros((4, 3)), pd.Series([], dtype=float)])
def test_another_number_of_targets_is_named(y):
    count = len(y) if np.ndim(y) else 0
    for check in (lambda: one_per_example(y, 3), lambda: encoded(Squared(), y, 3, 1)):
        with pytest.raises(ValueError, match=f"X has 3 examples, y has {count}"):
            check()


def test_targets_of_a_measure_are_left_as_they_are():
    y = torch.tensor([[0.5, np.nan], [1.0, 2.0]])
    assert one_per_example(y, 2).equal(y) or torch.equal(one_per_example(y, 2).isnan(), y.isnan())
    with pytest.raises(ValueError, match="y has a NaN or infinity, first in example 1"):
        encoded(Squared(), y, 2, 2)


@given(st.integers(0, 11), st.integers(0, 11), st.sampled_from([np.nan, np.inf, -np.inf]))
def test_the_first_number_that_is_not_finite(first: int, second: int, bad: float):
    values = torch.zeros(3, 4)
    values.view(-1)[[first, second]] = bad
    assert first_not_finite(values) == min(first, second)

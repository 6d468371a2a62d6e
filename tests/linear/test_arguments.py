"""Coefficients, intercepts and targets in every form: what they become, and what is said of those that do not fit."""

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.support.cases import draw
from upweight import Logistic, Softmax, Squared
from upweight.linear.arguments import encoded, first_not_finite, one_per_example, packed


@given(c=st.integers(1, 4), d=st.integers(1, 5), intercept=st.booleans(), seed=st.integers(0, 9))
def test_theta_is_laid_out_as_torch_lays_out_a_linear_layer(c: int, d: int, intercept: bool, seed: int):
    layer = torch.nn.Linear(d, c, bias=intercept).double()
    theta, to_outputs = packed(layer.weight, layer.bias if intercept else None, d)
    assert torch.equal(theta, torch.cat([v.detach().flatten() for v in layer.parameters()]))
    assert (to_outputs.c, to_outputs.d, to_outputs.intercept) == (c, d, intercept)
    named = to_outputs.layout.unpack(theta)
    assert {name: value.shape for name, value in named.items()} == {
        name: value.shape for name, value in layer.named_parameters()
    }


@pytest.mark.parametrize(
    "form", [torch.tensor, np.array, list, lambda v: pd.DataFrame(v).to_numpy(np.float32)]
)
def test_coefficients_in_every_form(form):
    theta, to_outputs = packed(form([[1.0, 2.0], [3.0, 4.0]]), [5, 6], 2)
    assert theta.tolist() == [1, 2, 3, 4, 5, 6]
    assert theta.dtype == torch.float64
    assert (to_outputs.c, to_outputs.intercept) == (2, True)


def test_one_output_may_have_a_flat_row_and_a_number():
    theta, to_outputs = packed(np.array([1.0, 2.0]), 3.0, 2)
    assert theta.tolist() == [1, 2, 3]
    assert to_outputs.c == 1
    assert packed([1.0, 2.0], None, 2)[0].tolist() == [1, 2]


def test_what_is_packed_is_a_copy():
    coef = draw(2, 3)
    theta, _ = packed(coef, None, 3)
    theta += 1
    assert torch.equal(coef, draw(2, 3))


@pytest.mark.parametrize(
    ("coef", "intercept", "words"),
    [
        (np.ones((1, 2, 3)), None, r"coef must have shape \(c, d\) or \(d,\), got \(1, 2, 3\)"),
        (1.0, None, r"coef must have shape \(c, d\) or \(d,\), got \(\)"),
        (np.ones((2, 4)), None, "coef has 4 columns, X has 3"),
        (np.ones(2), None, "coef has 2 columns, X has 3"),
        (np.ones((2, 3)), [1.0], "intercept has 1 entries, coef has 2 rows"),
        (np.ones(3), np.array([1.0, np.nan]), "intercept has 2 entries, coef has 1 rows"),
        (np.ones((2, 3)), [0.0, np.inf], "coef or intercept has a NaN or infinity, first at entry 7"),
    ],
)
def test_coefficients_that_do_not_fit(coef, intercept, words: str):
    with pytest.raises(ValueError, match=words):
        packed(coef, intercept, 3)


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

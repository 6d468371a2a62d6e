"""Coefficients and intercepts in every form: what they become, and what is said of those that do not fit."""

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.support.cases import draw
from upweight.linear.arguments import packed


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

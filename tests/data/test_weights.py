"""Weights and parameters as users give them: checked, and copied."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from upweight.data.weights import check_theta, check_weights

FORMS: list[Any] = [
    [1, 0, 2.5],
    np.array([1, 0, 2.5], dtype=np.float32),
    torch.tensor([1.0, 0.0, 2.5]),
    pd.Series([1, 0, 2.5], index=["a", "b", "c"]),
]


@pytest.mark.parametrize("form", FORMS, ids=lambda form: type(form).__name__)
def test_weights_of_every_form(form: Any):
    found = check_weights(form, 3)
    assert found.dtype == torch.float64
    assert found.tolist() == [1, 0, 2.5]


def test_no_weights_are_ones():
    assert check_weights(None, 2).tolist() == [1, 1]


@pytest.mark.parametrize("make", [lambda: torch.ones(2).double(), lambda: np.ones(2)])
def test_later_edits_of_the_users_weights_change_nothing(make):
    given = make()
    found = check_weights(given, 2)
    given[:] = 7
    assert found.tolist() == [1, 1]


@pytest.mark.parametrize(
    ("weights", "said"),
    [
        ([1.0], r"weights must have shape \(2,\), got \(1,\)"),
        ([[1.0, 2.0]], r"weights must have shape \(2,\), got \(1, 2\)"),
        (3.0, r"weights must have shape \(2,\), got \(\)"),
        ([1.0, -1e-9], "finite and >= 0"),
        ([1.0, float("nan")], "finite and >= 0"),
        ([1.0, float("inf")], "finite and >= 0"),
        ([0.0, 0.0], "all zero: nothing was trained on"),
    ],
)
def test_what_is_no_weight(weights: Any, said: str):
    with pytest.raises(ValueError, match=said):
        check_weights(weights, 2)


def test_parameters_get_the_precision_of_those_before():
    before = torch.zeros(2, dtype=torch.float64)
    given = torch.ones(2, requires_grad=True)
    found = check_theta(given, before)
    assert found.dtype == torch.float64
    assert not found.requires_grad


def test_later_edits_of_the_users_parameters_change_nothing():
    given = torch.ones(2)
    found = check_theta(given, torch.zeros(2))
    given.zero_()
    assert found.tolist() == [1, 1]


@pytest.mark.parametrize("shape", [(3,), (1, 2), ()])
def test_parameters_of_another_shape(shape: tuple[int, ...]):
    with pytest.raises(ValueError, match=r"theta must have shape \(2,\), got"):
        check_theta(torch.zeros(shape), torch.zeros(2))

"""Sets of training rows: every way to name them gives the rows meant, and no set that cannot be removed passes."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from upweight.data.row_sets import as_sets

N = 5
MASK = np.array([True, False, False, True, False])
ONE = {
    "list": [0, 3],
    "tuple": (0, 3),
    "array": np.array([0, 3]),
    "tensor": torch.tensor([0, 3]),
    "small whole numbers": np.array([0, 3], dtype=np.uint8),
    "mask": MASK,
    "mask of torch": torch.tensor(MASK),
    "mask as a list": MASK.tolist(),
    "mask of pandas": pd.Series(MASK),
    "one set of several": [[0, 3]],
    "range": range(0, 4, 3),
}
SEVERAL: dict[str, Any] = {
    "lists": [[0, 3], [1]],
    "ragged tuples": ((0, 3), (1,)),
    "tensors": [torch.tensor([0, 3]), torch.tensor([1])],
    "masks": [MASK, np.arange(N) == 1],
}
NAMED: dict[str, Any] = {
    "mapping": {"a": [0, 3], "b": torch.tensor([1])},
    "mapping of masks": {"a": MASK, "b": np.arange(N) == 1},
}


def told(groups: Any, n: int = N) -> dict[Any, list[int]]:
    """Names and rows."""
    names, parts = as_sets(groups, n)
    assert names.name == "group"
    assert all(rows.dtype == torch.int64 for rows in parts)
    return dict(zip(names.tolist(), [rows.tolist() for rows in parts], strict=True))


@pytest.mark.parametrize("form", ONE)
def test_one_set(form: str):
    assert told(ONE[form]) == {0: [0, 3]}


@pytest.mark.parametrize("form", SEVERAL)
def test_several_sets(form: str):
    assert told(SEVERAL[form]) == {0: [0, 3], 1: [1]}


@pytest.mark.parametrize("form", NAMED)
def test_named_sets(form: str):
    assert told(NAMED[form]) == {"a": [0, 3], "b": [1]}


COLUMN = ["x", "y", "y", "x", "z"]
OF_COLUMN = {"x": [0, 3], "y": [1, 2], "z": [4]}


@pytest.mark.parametrize(
    "form",
    [
        COLUMN,
        np.array(COLUMN),
        np.array(COLUMN, dtype=object),
        pd.Series(COLUMN),
        pd.Series(COLUMN, index=list("vwxyz")),
        pd.Series(COLUMN, dtype="category"),
        pd.Categorical(COLUMN, categories=["w", "x", "y", "z"]),  # nobody is in w
    ],
    ids=["list", "array", "objects", "series", "series with ids", "categories", "categorical"],
)
def test_a_column_makes_a_set_of_each_value(form: Any):
    assert told(form) == OF_COLUMN


def test_a_series_of_numbers_is_a_column_and_a_list_of_them_row_numbers():
    assert told(pd.Series([7, 8, 7, 7, 8])) == {7: [0, 2, 3], 8: [1, 4]}
    assert told([1, 4]) == {0: [1, 4]}


@given(st.lists(st.sampled_from("abc"), min_size=2, max_size=12).filter(lambda column: len(set(column)) > 1))
def test_the_sets_of_a_column_are_a_partition(column: list[str]):
    found = told(column, len(column))
    assert sorted(row for rows in found.values() for row in rows) == list(range(len(column)))
    for value, rows in found.items():
        assert {column[row] for row in rows} == {value}


@pytest.mark.parametrize(
    ("groups", "said"),
    [
        ([], "group 0 is empty: nothing would be removed"),
        ({"a": [0], "b": []}, "group 'b' is empty"),
        (np.zeros(N, dtype=bool), "group 0 is empty"),
        ([0, 5], r"group 0 has the training row 5; rows are 0 to 4"),
        ({"a": [-1]}, "group 'a' has the training row -1"),
        ([[0], [1, 2, 1]], "group 1 names a training row twice"),
        ([0, 1, 2, 3, 4], "group 0 is the whole training set: nothing would be left to train on"),
        (np.ones(N, dtype=bool), "the whole training set"),
        (["x"] * N, "group 'x' is the whole training set"),
        (np.array([True, False]), r"a mask of training rows must have shape \(5,\), got \(2,\)"),
        ([0.5, 1.0], r"must be a list of row numbers or a mask, got torch.float64 of shape \(2,\)"),
        (np.zeros((1, 1, 1), dtype=int), "must be a list of row numbers or a mask"),
        (["x", "y"], r"one entry per training row \(5\), got 2"),
        (3, r"must be a list of row numbers or a mask, got torch.int64 of shape \(\)"),
    ],
)
def test_sets_that_cannot_be_removed(groups: Any, said: str):
    with pytest.raises(ValueError, match=said):
        as_sets(groups, N)

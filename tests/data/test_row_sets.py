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


# -- rows that have names ------------------------------------------------------------------------------------------

NAMES = pd.Index([4, 2, 0, 1, 3])
"""What five rows are called after a split: numbers that are other rows' positions."""
BY_NAME = pd.Series(COLUMN, index=NAMES)


def named(groups: Any, index: pd.Index | None = NAMES) -> dict[Any, list[int]]:
    """Names and rows."""
    names, parts = as_sets(groups, N, index)
    return {name: sorted(rows.tolist()) for name, rows in zip(names, parts, strict=True)}


@pytest.mark.parametrize(
    "groups",
    [
        pd.Index([4, 1]),
        [pd.Index([1, 4])],
        BY_NAME.eq("x"),
        BY_NAME.eq("x").sort_index(),
        BY_NAME.eq("x").astype("boolean").sort_index(),
        BY_NAME.eq("x").astype(object).sort_index(),
        BY_NAME.eq("x").to_numpy(),
        pd.concat([BY_NAME.eq("x"), pd.Series([True], index=[99])]),  # of a larger table
        torch.tensor([0, 3]),
        NAMES[[0, 3]],
    ],
    ids=repr,
)
def test_rows_of_those_names(groups: Any):
    assert named(groups) == {0: [0, 3]}


@pytest.mark.parametrize("column", [BY_NAME, BY_NAME.sort_index(), BY_NAME.iloc[::-1].astype("category")])
def test_a_column_is_paired_by_its_index(column: pd.Series):
    assert named(column) == OF_COLUMN
    assert named(dict(column.groupby(column, observed=True).groups)) == OF_COLUMN


@pytest.mark.parametrize("rows", [[0, 3], (0, 3), np.array([0, 3]), {"a": [0, 3]}, [[0, 3]], range(0, 4, 3)])
def test_whole_numbers_that_may_be_names_are_refused(rows: Any):
    with pytest.raises(
        ValueError, match=r"is the number of one training row, called \d, and the name of another"
    ):
        as_sets(rows, N, NAMES)


def test_strings_are_names_where_rows_are_called_so():
    letters = pd.Index(list("vwxyz"))
    assert named(["v", "y"], letters) == named({0: ["y", "v"]}, letters) == {0: [0, 3]}
    with pytest.raises(ValueError, match="no training row is called 'u'"):
        as_sets({"a": ["u"]}, N, letters)


def test_a_column_in_another_order_than_rows_without_names_is_refused():
    said = "the training rows came without an index and have the numbers 0 to 4"
    with pytest.raises(ValueError, match=said):
        as_sets(BY_NAME, N)
    with pytest.raises(ValueError, match=said):
        as_sets(BY_NAME.eq("x"), N)


@pytest.mark.parametrize(
    "groups", [BY_NAME.to_frame(), {"a": pd.Series([0, 3])}, [BY_NAME.to_frame().head(2)]]
)
def test_tables_are_refused_with_what_may_be_meant(groups: Any):
    with pytest.raises(ValueError, match=r"give its \.index for the rows that it names"):
        as_sets(groups, N, NAMES)


@pytest.mark.parametrize(
    "mask",
    [
        pd.array([True, False, None, True, False], dtype="boolean"),
        pd.Series([True, False, None, True, False]),
    ],
)
def test_a_mask_with_holes_is_refused(mask: Any):
    with pytest.raises(ValueError, match="says neither yes nor no of 1 rows, first of row number 2"):
        as_sets(mask, N)


@pytest.mark.parametrize(
    "mask",
    [
        pd.array(MASK, dtype="boolean"),
        pd.Series(MASK, dtype="boolean"),
        pd.Series(MASK, dtype="bool[pyarrow]"),
        pd.Series(MASK, dtype=object),
    ],
    ids=str,
)
def test_masks_of_other_kinds_are_one_set(mask: Any):
    assert told(mask) == {0: [0, 3]}


# -- groups ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "column",
    [
        ["x", None, "y", "x", None],
        pd.Series(["x", None, "y", "x", None], dtype="category"),
        pd.Series(["x", None, "y", "x", None], dtype="string"),
        np.array(["x", np.nan, "y", "x", np.nan], dtype=object),
    ],
    ids=str,
)
def test_rows_whose_group_is_missing_are_a_group(column: Any):
    assert told(column) == {"x": [0, 3], "y": [2], "(missing)": [1, 4]}


def test_missing_numbers_are_a_group_too():
    assert told(pd.Series([7.0, np.nan, 8.0, 7.0, 8.0])) == {7.0: [0, 3], 8.0: [2, 4], "(missing)": [1]}
    assert told(["(missing)", None, "x", "x", "x"]) == {"(missing)": [0, 1], "x": [2, 3, 4]}


@pytest.mark.parametrize(
    "column", [[7, 8, 7, 7, 8], np.array([7, 8, 7, 7, 8]), torch.tensor([7, 8, 7, 7, 8])]
)
def test_as_many_numbers_as_rows_are_a_column(column: Any):
    assert told(column) == {7: [0, 2, 3], 8: [1, 4]}


def test_groups_named_by_two_columns():
    table = pd.DataFrame({"region": ["N", "S", "N", "S", "N"], "year": [1, 1, 2, 2, 1]})
    wanted = {("N", 1): [0, 4], ("N", 2): [2], ("S", 1): [1], ("S", 2): [3]}
    by = table.groupby(["region", "year"])
    assert told(by.indices) == told(by.groups) == wanted
    assert told(pd.Series(list(zip(table.region, table.year, strict=True)))) == wanted

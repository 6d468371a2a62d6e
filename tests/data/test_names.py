"""Rows by their names: paired by them in any order, refused where names and positions may both be meant."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from upweight.data.names import check_edit, not_ambiguous, paired, rows_named, same_order

INDEX = pd.Index([7, 3, 5])
DATES = pd.date_range("2024-01-01", periods=3)
PAIRS = pd.MultiIndex.from_tuples([("u", 1), ("v", 2), ("w", 3)]).to_flat_index()


@pytest.mark.parametrize("index", [INDEX, DATES, PAIRS, pd.Index(["a", "b", "c"])], ids=str)
@pytest.mark.parametrize("form", ["series", "frame"])
def test_what_has_an_index_is_paired_by_it(index: pd.Index, form: str):
    values = pd.Series([10, 11, 12, 13], index=[*index, index[0:0].tolist() or "other"])
    given = values if form == "series" else values.to_frame()
    shuffled = given.iloc[[3, 2, 0, 1]]
    found = paired(shuffled, index, "weights")
    assert np.asarray(found).ravel().tolist() == [10, 11, 12]


@pytest.mark.parametrize("values", [[1, 2, 3], np.arange(3), torch.arange(3), None])
def test_what_has_none_stays_as_it_is(values: Any):
    assert paired(values, INDEX, "weights") is values
    same_order(values, INDEX, "weights")


def test_names_in_the_same_order_may_occur_twice():
    values = pd.Series([1, 2, 3], index=["a", "a", "b"])
    assert paired(values, pd.Index(["a", "a", "b"]), "weights") is values
    with pytest.raises(ValueError, match="the name 'a' occurs twice"):
        paired(values, pd.Index(["a", "b", "a"]), "weights")
    with pytest.raises(ValueError, match="the name 'a' occurs twice"):
        paired(pd.Series([1, 2], index=["a", "b"]), pd.Index(["a", "b", "a"]), "weights")


def test_rows_without_an_entry_are_named():
    said = "paired by their index, and weights has no entry for 1 of 3 rows, first for the row named 5"
    with pytest.raises(ValueError, match=said):
        paired(pd.Series([1, 2, 3], index=[7, 3, 4]), INDEX, "weights")


def test_training_data_in_another_order_are_refused():
    said = "y and X differ in their index, first in row 1: 5 in y, 3 in X"
    with pytest.raises(ValueError, match=said):
        same_order(pd.Series([1, 2, 3], index=[7, 5, 3]), INDEX, "y")
    same_order(pd.Series([1, 2, 3], index=INDEX), INDEX, "y")


@pytest.mark.parametrize(
    ("names", "index", "rows"),
    [
        (pd.Index([5, 7]), INDEX, [2, 0]),
        (pd.Index([5.0, 7.0]), INDEX, [2, 0]),
        (DATES[[2, 1]], DATES, [2, 1]),
        (pd.MultiIndex.from_tuples([("w", 3), ("u", 1)]), PAIRS, [2, 0]),
        (pd.Index([2, 1]), None, [2, 1]),  # rows without names are called by their numbers
        (pd.Index([], dtype=int), INDEX, []),
    ],
    ids=str,
)
def test_rows_by_name(names: pd.Index, index: pd.Index | None, rows: list[int]):
    assert rows_named(names, 3, index).tolist() == rows


@pytest.mark.parametrize(
    ("names", "index", "said"),
    [
        (pd.Index([5, 4]), INDEX, "no training row is called 4; they are called 7, 3, 5"),
        (pd.Index(["a"]), None, "the training rows have no names"),
        (pd.Index(["a"]), pd.Index(["a", "b", "a"]), "several training rows are called 'a'"),
    ],
    ids=str,
)
def test_names_that_nobody_or_several_have(names: pd.Index, index: pd.Index | None, said: str):
    with pytest.raises(ValueError, match=said):
        rows_named(names, 3, index)


def test_whole_numbers_that_are_also_names():
    with pytest.raises(
        ValueError, match="2 is the number of one training row, called 9, and the name of another"
    ):
        not_ambiguous(np.array([0, 2]), pd.Index([2, 8, 9]), "group 0")
    not_ambiguous(np.array([0, 1]), pd.Index([2, 8, 9]), "group 0")
    not_ambiguous(np.array([2]), pd.Index([8, 9, 2]), "group 0")  # both readings are the same row
    not_ambiguous(np.array([0, 2]), pd.Index(["a", "b", "c"]), "group 0")


def test_replacements_keep_the_order_of_what_they_replace():
    old = pd.Index(["a", "b"])
    for new in (old, None, pd.Index(["c", "d"])):
        check_edit(old, new)
        check_edit(new, old)
    with pytest.raises(ValueError, match="the same rows in another order"):
        check_edit(old, old[::-1])

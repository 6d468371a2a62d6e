"""Names ride along: which rows and batches have ids, and how a problem on some rows keeps them."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from upweight.data.user_terms import Terms, batch_index, row_index

FRAME = pd.DataFrame({"x": [1.0, 2.0]}, index=["a", "b"])


def test_ids_follow_the_rows_and_all_else_stays():
    terms = Terms(
        feature_names=("x",), train_index=pd.Index([10, 20, 30]), classes=("no", "yes"), notes=("rounded",)
    )
    some = terms.take(torch.tensor([2, 0, 2]))
    assert some.train_index is not None
    assert some.train_index.tolist() == [30, 10, 30]
    assert (some.feature_names, some.classes, some.notes) == (("x",), ("no", "yes"), ("rounded",))
    assert terms.train_index is not None
    assert terms.train_index.tolist() == [10, 20, 30]


def test_without_ids_nothing_is_to_be_picked():
    terms = Terms(classes=(0, 1))
    assert terms.take(torch.tensor([0])) is terms


def test_names_of_an_index_are_kept():
    some = Terms(train_index=pd.Index(["a", "b"], name="patient")).take(torch.tensor([1]))
    assert some.train_index is not None
    assert some.train_index.name == "patient"


@pytest.mark.parametrize(
    ("rows", "wanted"),
    [
        (FRAME, ["a", "b"]),
        (FRAME["x"], ["a", "b"]),
        (
            pd.DataFrame({"x": [1, 2]}, index=pd.MultiIndex.from_tuples([("u", 1), ("v", 2)])),
            [("u", 1), ("v", 2)],
        ),
        (FRAME.to_numpy(), None),
        (torch.eye(2), None),
        ([1, 2], None),
    ],
)
def test_who_has_row_ids(rows: Any, wanted: Any):
    found = row_index(rows)
    assert (None if found is None else found.tolist()) == wanted


@pytest.mark.parametrize(
    ("batch", "wanted"),
    [
        ((FRAME, np.zeros(2)), ["a", "b"]),
        ((np.zeros((2, 1)), pd.Series([0, 1], index=["c", "d"])), ["c", "d"]),
        ((FRAME, pd.Series([0, 1], index=["c", "d"])), ["a", "b"]),  # inputs first
        ([FRAME, np.zeros(2)], ["a", "b"]),
        ((np.zeros((2, 1)), np.zeros(2)), None),
        ({"x": FRAME}, None),
        (FRAME, None),
    ],
)
def test_the_ids_of_a_batch(batch: Any, wanted: Any):
    found = batch_index(batch)
    assert (None if found is None else found.tolist()) == wanted

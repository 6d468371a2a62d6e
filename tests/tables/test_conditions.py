"""Rows are found by their names and by conditions, and a condition sees nothing but the columns."""

import numpy as np
import pandas as pd
import pytest

from upweight.tables.conditions import fulfilling, row_label
from upweight.tables.reading import FileError

TABLE = pd.DataFrame({"age": [31, 52, 18], "town": ["north", "south", "south"]})


@pytest.mark.parametrize(
    ("index", "word", "label"),
    [
        ([0, 1, 2], "1", 1),
        ([-1, 0, 1], "-1", -1),
        (["0", "1", "2"], "1", "1"),
        (["ann", "bob", "eve"], "bob", "bob"),
        ([7, "7", "b"], "7", "7"),  # the word itself before the number that it is
    ],
)
def test_a_row_is_found_by_its_name_or_number(index, word, label):
    assert row_label(TABLE.set_axis(pd.Index(index, dtype=object)), word) == label


def test_a_row_that_is_not_there_is_refused_with_the_names_of_the_others():
    for word in ("3", "-1", "x", "1.0", ""):
        with pytest.raises(FileError, match=rf"no row '{word}'; they go from 0 to 2"):
            row_label(TABLE, word)
    with pytest.raises(FileError, match="no row is left"):
        row_label(TABLE.iloc[:0], "0")


@pytest.mark.parametrize(
    ("condition", "rows"),
    [("age > 20", [0, 1]), ("town == 'south' and age < 40", [2]), ("not town == 'south'", [0])],
)
def test_a_condition_holds_of_the_rows_that_pandas_says(condition, rows):
    assert np.flatnonzero(fulfilling(TABLE, condition)).tolist() == rows


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        ("age <", "cannot be understood"),
        ("agee < 3", "cannot be understood"),
        ("@TABLE.age > 3", "cannot be understood"),
        ("__import__('os').system('true')", "cannot be understood"),
        ("age + 1", "is not true or false"),
        ("age.max() > 3", "is not true or false"),
        ("age > 100", "no row fulfils"),
    ],
)
def test_a_condition_that_selects_nothing_or_is_none_is_refused(condition, message):
    with pytest.raises(FileError, match=message):
        fulfilling(TABLE, condition)

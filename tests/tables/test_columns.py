"""Columns are understood as what they hold, and what is left out is said."""

import pandas as pd
import pytest

from upweight.tables.columns import kind_of, understood
from upweight.tables.reading import read


def test_columns_are_understood_and_what_is_left_out_is_said(people_file):
    table = understood(read(people_file), "opinion")
    assert table.kinds == {"age": "number", "town": "category", "said": "text"}
    notes = "\n".join(table.notes)
    for words in ("name: left out", "country: left out, it is constant", "age: 1 missing", "town: 1 missing"):
        assert words in notes
    assert table.classifies


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([1.0, 2.5, None], "number"),
        (list(range(50)), "it counts the rows"),
        ([True, False, True], "category"),
        (["a.png", "b.JPG"], "image"),
        (pd.to_datetime(["2020-01-01", "2021-01-01"]), "dates"),
        ([None, None], "it is empty"),
        ([[1], [2]], "neither numbers nor text"),
    ],
)
def test_kinds(values, kind):
    column = pd.Series(values, dtype=object if values[0] is True or isinstance(values[0], list) else None)
    if isinstance(values[0], list):
        column = pd.Series(pd.array([(1,), (2,)], dtype=object))
    assert kind_of(column).startswith(kind) or kind in kind_of(column)

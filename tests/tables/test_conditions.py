"""Rows are found by their names and by conditions, and a condition sees nothing but the columns."""

import numpy as np
import pandas as pd
import pytest

from upweight.tables.conditions import fulfilling, row_label
from upweight.tables.reading import FileError

TABLE = pd.DataFrame({"age": [31, 52, 18], "town": ["north", "south", "south"], "my.age": 1})


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
    [
        ("age > 20", [0, 1]),
        ("town == 'south' and age < 40", [2]),
        ("not town == 'south'", [0]),
        ("age > 20 & town == 'south'", [1]),
        ("20 < age < 40 | `my.age` == 2", [0]),
        ("town in ['north']", [0]),
        ("age == [52, 18]", [1, 2]),
        ("(age - 2) ** 2 / 2 >= -age + 1e3", [1]),
        ("index == 2", [2]),
        ("-age < -40 # a remark", [1]),
        ("age == age", [0, 1, 2]),
    ],
)
def test_a_condition_holds_of_the_rows_that_pandas_says(condition, rows):
    assert np.flatnonzero(fulfilling(TABLE, condition)).tolist() == rows


@pytest.mark.parametrize(
    "condition",
    [
        "age.to_csv('x.csv')",
        "town == 'a' or age.to_csv('x.csv')",
        "'`' == town + age.to_csv('x.csv') + '`'",
        "'''\nage.to_csv('x.csv')\n'''",
        "'\x0cage.to_csv('x.csv')\x0c'",
        "age > 3 \u2028 age.to_csv('x.csv')",
        "`age`.to_csv('x.csv')",
        "`age.to_csv('x.csv')`",
        "@pd.DataFrame().to_csv('x.csv')",
        "age > 3 and (yes := age.to_csv('x.csv'))",
    ],
)
def test_a_condition_cannot_write_files(condition, tmp_path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileError):
        fulfilling(TABLE, condition)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        ("age <", "cannot be understood"),
        ("agee < 3", "cannot be understood"),
        ("@TABLE.age > 3", "cannot be understood"),
        ("__import__('os').system('true')", "cannot be understood"),
        ("age + 1", "is not true or false"),
        ("age.max() > 3", "cannot be understood: it compares columns and values"),
        ("age.values > 3", "'age.values' is something else"),
        ("Town == 'south'", "no column 'Town'; closest: town"),
        ("`AGE` > 3", "no column 'AGE'; closest: age"),
        ("`my age` > 3", "no column 'my age'; closest: my.age, age"),
        ("my.age > 3", "write `my.age`, in backticks"),
        ("my.age old > 3", r"invalid syntax: write `my\.age`, in backticks, for the column$"),
        ("age > 3 and [age for x in age]", "is something else"),
        ("f'{age}' == 'x'", "is something else"),
        ("(lambda: age)() > 3", "is something else"),
        ("age @ age > 3", "is something else"),
        ("age[0] > 3", "is something else"),
        ("found = age > 3", "cannot be understood"),
        ("age > 3\nage > 4", "in one line"),
        ("town == '`'", "no backtick but"),
        ("age > 100", "no row fulfils"),
    ],
)
def test_a_condition_that_selects_nothing_or_is_none_is_refused(condition, message):
    with pytest.raises(FileError, match=message):
        fulfilling(TABLE, condition)

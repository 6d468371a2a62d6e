"""Columns are understood as what they hold, and what is left out is said."""

from typing import Any

import numpy as np
import pandas as pd
import pytest

from upweight.tables.columns import understood
from upweight.tables.kinds import is_kind, is_quantity, kind_of
from upweight.tables.reading import FileError, read


def test_columns_are_understood_and_what_is_left_out_is_said(people_file):
    table = understood(read(people_file), "opinion")
    assert table.kinds == {"age": "number", "town": "category", "said": "text"}
    notes = "\n".join(table.notes)
    for words in ("name: left out", "country: left out, it is constant", "age: 1 missing", "town: 1 missing"):
        assert words in notes
    assert table.classifies


def test_columns_left_out_for_one_reason_are_one_note():
    table = pd.DataFrame({"a": [1, 1, 1], "x": [1.5, 2, 3], "b": ["u"] * 3, "y": [0, 1, 0], "c": [None] * 3})
    assert understood(table, "y").notes == (
        "a, b: left out, each because it is constant",
        "c: left out, it is empty",
    )


@pytest.mark.parametrize("name", ["encounter_id", "patient_nbr", "customerID", "Id", "row.id"])
def test_whole_numbers_that_name_the_rows_are_no_quantity_unless_the_user_says_so(name):
    numbers = np.random.default_rng(0).permutation(1000)[:50]
    assert kind_of(pd.Series(numbers, name=name)).startswith("it numbers the rows")
    assert (
        kind_of(pd.Series(numbers % 20, name=name)) == "number"
    )  # admission_type_id: few values, many rows each
    assert kind_of(pd.Series(numbers + 0.5, name=name)) == "number"
    table = pd.DataFrame({name: numbers, "x": numbers % 7, "y": numbers % 2})
    assert name not in understood(table, "y").kinds
    assert understood(table, "y", number=[name]).kinds[name] == "number"


@pytest.mark.parametrize("name", ["income", "paid", "fluid", "bid", "Humid"])
def test_whole_numbers_by_another_name_are_quantities(name):
    assert kind_of(pd.Series(np.random.default_rng(0).permutation(1000)[:50], name=name)) == "number"


def test_a_column_that_rows_asked_about_lack_is_said_to_be_missing_there():
    table = understood(pd.DataFrame({"age": [1.5, 2, 3], "y": [0, 1, 0]}), "y")
    with pytest.raises(FileError, match=r"no column 'age' in the rows asked about.*; closest: Age"):
        table.batch(pd.DataFrame({"Age": [1.0], "y": [1]}))


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([1.0, 2.5, None], "number"),
        (list(range(50)), "it counts the rows"),
        ([True, False, True], "category"),
        (["a.png", "b.JPG"], "image"),
        (pd.to_datetime(["2020-01-01", "2021-01-01"]), "date"),
        ([None, None], "it is empty"),
        ([[1], [2]], "neither numbers nor text"),
    ],
)
def test_kinds(values, kind):
    column = pd.Series(values, dtype=object if values[0] is True or isinstance(values[0], list) else None)
    if isinstance(values[0], list):
        column = pd.Series(pd.array([(1,), (2,)], dtype=object))
    assert kind_of(column).startswith(kind) or kind in kind_of(column)


def people(n: int = 30) -> pd.DataFrame:
    random = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "age": random.normal(40, 9, n).round(1),
            "town": random.choice(["north", "south"], n),
            "said": ["that was rather good today"] * (n // 2) + ["this was quite bad again"] * (n - n // 2),
            "likes": ["yes", "no"] * (n // 2),
        }
    )


@pytest.mark.parametrize(
    ("values", "quantity"),
    [
        ([0, 1, 1, 0], False),
        ([0.0, 1.0, 2.0], False),
        ([0.5, 1.0, 2.0], True),
        (list(range(21)), True),
        (list(range(20)), False),
        ([True, False], False),
        (["1", "2.5"], False),
    ],
    ids=str,
)
def test_a_target_is_a_quantity_where_it_is_no_class(values: list, quantity: bool):
    assert is_quantity(pd.Series(values)) is quantity


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (
            ["yes", None] * 15,
            "the target 'likes' is missing in 15 rows, first in row 1: remove those rows",
        ),
        (["yes"] * 30, "the target 'likes' is 'yes' in every row: nothing to tell apart"),
        ([f"name {i}" for i in range(30)], "has 30 different values in 30 rows: that is no class"),
        ([1, "one"] * 15, "the target 'likes' mixes int and str: make it one of them"),
    ],
)
def test_a_target_that_cannot_be_predicted_is_refused(target: list, message: str):
    with pytest.raises(FileError, match=message):
        understood(people().assign(likes=pd.Series(target, dtype=object)), "likes")


def test_truth_values_are_classes_with_names():
    table = understood(people().assign(likes=[True, False] * 15), "likes")
    assert table.y.unique().tolist() == ["true", "false"]
    assert table.classifies


def test_a_quantity_is_a_number_whatever_its_type():
    table = understood(people().assign(likes=np.arange(30, dtype=np.int32)), "likes")
    assert table.y.dtype == np.float64
    assert not table.classifies


@pytest.mark.parametrize(
    ("options", "kinds"),
    [
        ({}, {"age": "number", "town": "category", "said": "text"}),
        ({"text": ["town"]}, {"age": "number", "town": "text", "said": "text"}),
        ({"drop": ["said", "age"]}, {"town": "category"}),
    ],
    ids=str,
)
def test_a_column_is_what_its_user_says(options: dict, kinds: dict):
    assert understood(people(), "likes", **options).kinds == kinds


@pytest.mark.parametrize("option", ["text", "image", "drop"])
def test_a_column_that_is_not_there_is_named_with_the_closest(option: str):
    options: dict[str, Any] = {option: ["tonw"]}
    with pytest.raises(FileError, match=r"no column 'tonw'.*town"):
        understood(people(), "likes", **options)


def test_rows_are_called_by_an_id_that_no_model_sees():
    table = people().assign(name=[f"person {i}" for i in range(30)])
    found = understood(table, "likes", id="name")
    assert found.X.index.tolist() == table["name"].tolist() == found.y.index.tolist()
    assert "name" not in found.kinds
    with pytest.raises(FileError, match="'same' is there 30 times"):
        understood(table.assign(name="same"), "likes", id="name")


def test_no_column_is_left():
    with pytest.raises(FileError, match="no column is left to learn from: land: left out, it is constant"):
        understood(people()[["likes"]].assign(land="here"), "likes")


def test_missing_cells_are_filled_as_the_notes_say():
    table = people()
    table.loc[[2, 5], "town"] = None
    table.loc[3, "said"] = None
    table.loc[4, "age"] = None
    found = understood(table, "likes")
    assert found.X["town"][2] == "(missing)"
    assert found.X["said"][3] == ""
    assert np.isnan(found.X["age"][4])  # the pipeline fills it, and says so
    assert found.notes == (
        "age: 1 missing values, taken as the column's median, with a column that says so",
        "town: 2 missing values, taken as a category of their own",
        "said: 1 missing values, taken as empty",
    )


def test_a_batch_is_of_the_columns_that_the_model_sees():
    found = understood(people(), "likes", drop=["said"])
    other = people(4).assign(more=1, town=["east", None, "north", "south"])[["likes", "more", "town", "age"]]
    other.index = pd.Index([7, 8, 9, 10])
    X, y = found.batch(other)
    assert list(X) == ["age", "town"]
    assert X.index.tolist() == y.index.tolist() == [7, 8, 9, 10]
    assert X["town"].tolist() == ["east", "(missing)", "north", "south"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"age": ["old"] * 4}, "column 'age' holds numbers in the training file, and something else here"),
        ({"likes": [None, "no", "yes", "no"]}, "the target 'likes' is missing in 1 rows, first in row 0"),
        ("age", "no column 'age'"),
    ],
    ids=str,
)
def test_a_batch_of_something_else_is_refused(change, message: str):
    found, other = understood(people(), "likes"), people(4)
    other = other.drop(columns=change) if isinstance(change, str) else other.assign(**change)
    with pytest.raises(FileError, match=message):
        found.batch(other)


@pytest.mark.parametrize("count", [19, 21])
def test_names_are_left_out_where_there_are_many(count: int):
    """Almost every row has a value of its own: few rows may all differ by chance."""
    found = kind_of(pd.Series([f"n{i}" for i in range(count)]))
    assert is_kind(found) is (count < 21)


def test_whole_numbers_that_skip_or_fall_are_numbers():
    assert kind_of(pd.Series([1, 2, 3, 4, 5, 6, 8])) == "number"
    assert kind_of(pd.Series([6, 5, 4, 3, 2, 1])) == "number"
    assert kind_of(pd.Series([1, 2, 3])) == "number"  # too few to be a count


def test_a_word_among_numbers_is_named():
    table = people(100).assign(size=[f"{value / 7:.3f}" for value in range(100)])
    table.loc[50, "size"] = "about 7"
    notes = understood(table, "likes").notes
    assert any(
        note.startswith("size: left out, 1 of its 100 cells is no number, first 'about 7' in row 50")
        for note in notes
    ), notes


@pytest.mark.parametrize("target", ["y", "b"])
def test_infinite_cells_are_named_with_their_column_and_row(target):
    table = pd.DataFrame({"a": [0.5, 1.5, 2.0], "b": [1.0, float("inf"), 0.0], "y": ["n", "y", "n"]})
    with pytest.raises(FileError, match=r"column 'b' is infinite in 1 rows, first in row 1"):
        understood(table, target)
    assert understood(table, "y", drop=["b"]).kinds == {"a": "number"}

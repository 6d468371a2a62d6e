"""One odd cell does not change what a column is: markers of missing values, amounts, decimal commas, dates."""

from decimal import Decimal

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from tests.support.files import run
from upweight.cli import app
from upweight.tables.columns import understood
from upweight.tables.reading import FileError, read


def table_of(cells: list, n: int = 60, target: list | None = None) -> pd.DataFrame:
    """A column `x` of the cells again and again, beside a number, and a target of two classes."""
    random = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "x": pd.Series((cells * n)[:n], dtype=object),
            "z": random.normal(size=n).round(3),
            "y": (target or ["a", "b"]) * (n // len(target or ["a", "b"])),
        }
    )


@pytest.mark.parametrize(
    "mark", ["NA", "NaN", "null", "None", "N/A", "?", "-", ".", " ", "#N/A", "na", " NA "], ids=repr
)
def test_what_stands_for_a_missing_value_is_missing_among_numbers(tmp_path, mark: str):
    """The model is the same as with empty cells, and the note says how they were written."""
    random = np.random.default_rng(0)
    words = [f"{number:.2f}" for number in random.normal(size=80)]
    found = []
    for cell in (mark, ""):
        with_it = [cell if i in (3, 50) else word for i, word in enumerate(words)]
        path = tmp_path / "a.csv"
        pd.DataFrame({"x": with_it, "y": ["a", "b"] * 40}).to_csv(path, index=False)
        found.append(understood(read(path), "y"))
    marked, empty = found
    assert marked.kinds == empty.kinds == {"x": "number"}
    pd.testing.assert_frame_equal(marked.X, empty.X)
    assert empty.notes == ("x: 2 missing values, taken as the column's median, with a column that says so",)
    written = f" (2 written {mark!r})" if mark.strip() else ""
    assert marked.notes == (empty.notes[0].replace(",", written + ",", 1),)


def test_texts_and_names_are_told_by_the_cells_that_hold_something():
    """Nine of ten comments are "NA", as R writes them; with empty cells the column is text as well."""
    comments = ["this adult was not sampled", "not enough blood for isotopes", *["NA"] * 18]
    names = [f"name {i}" if i % 2 else "NA" for i in range(60)]
    for column, empty in ((comments * 3, "text"), (names, None)):
        table = table_of(column)
        marked = understood(table, "y")
        blank = understood(table.assign(x=table["x"].replace("NA", None)), "y")
        assert marked.kinds.get("x") == blank.kinds.get("x") == empty
        pd.testing.assert_frame_equal(marked.X, blank.X)


def test_among_categories_they_are_categories():
    found = understood(table_of(["north", "NA", "None", "?"]), "y")
    assert set(found.X["x"]) == {"north", "NA", "None", "?"}


@pytest.mark.parametrize(
    ("cells", "numbers", "told"),
    [
        (["$3,750.00", "$20.50"], [3750, 20.5], "'$3,750.00' as 3750"),
        (["57.1%", "3%"], [57.1, 3], "'57.1%' as 57.1"),
        (["3,75", "1,5", "12"], [3.75, 1.5, 12], "'3,75' as 3.75"),
        (["1.234,50 €", "7,00 €"], [1234.5, 7], "'1.234,50 €' as 1234.5"),
        (["1\u202f234,5", "1,5"], [1234.5, 1.5], "as 1234.5"),
        (["1,234", "5,678,901"], [1234, 5678901], "'5,678,901' as 5.6789e+06"),
        (["(12.50)", "3.00"], [-12.5, 3], "'(12.50)' as -12.5"),
        (["-$5", "$ 7", "\u2212$8"], [-5, 7, -8], "as"),
        (["USD 1'200.50", "USD 3"], [1200.5, 3], "as 1200.5"),
    ],
    ids=str,
)
def test_amounts_are_numbers_and_said_to_be_read_as_such(cells: list, numbers: list, told: str):
    found = understood(table_of(cells), "y")
    assert found.kinds["x"] == "number"
    assert found.X["x"].tolist()[: len(numbers)] == numbers
    assert any(note.startswith("x: read as numbers, ") and told in note for note in found.notes), found.notes


def test_a_decimal_comma_of_one_column_decides_for_the_table():
    """ "1,234" alone may be either; beside "3,75" it has a decimal comma, beside 3.75 it has thousands."""
    table = table_of(["1,234", "5,678"]).assign(z=["3,75", "8,5"] * 30)
    assert understood(table, "y").X["x"].tolist()[:2] == [1.234, 5.678]
    assert understood(table.assign(z=[3.75, 8.5] * 30), "y").X["x"].tolist()[:2] == [1234, 5678]


@pytest.mark.parametrize(
    "cells", [["1,2,3", "4,5"], ["12 kg", "7 lb"], ["A12", "A13"], ["$3", "3 €", "£3"], ["1.2.3", "4.5.6"]]
)
def test_what_is_no_number_stays_what_it_is(cells: list):
    assert understood(table_of(cells), "y").kinds["x"] == "category"


def test_a_cell_that_breaks_a_column_of_numbers_is_named_with_its_row():
    many = [f"{number:.3f}" for number in np.random.default_rng(0).normal(size=60)]
    table = table_of([*many[:17], "<0.1", *many[18:]])
    notes = understood(table, "y").notes
    assert any(
        "x: left out, 1 of its 60 cells is no number, first '<0.1' in row 17" in note for note in notes
    )
    assert any("--number x" in note for note in notes)
    found = understood(table, "y", number=["x"])
    assert np.flatnonzero(found.X["x"].isna()).tolist() == [17]
    assert any("first '<0.1' in row 17: taken as missing" in note for note in found.notes)
    few = understood(table_of(["0", "1", "2", "3+", "1", "2", "0", "NA", None]), "y")
    assert any(note.startswith("x: 6 missing values, taken as a category") for note in few.notes), few.notes
    few = understood(table_of(["0", "1", "2", "3+"]), "y")
    assert few.kinds["x"] == "category"
    assert "x: 15 of its 60 cells are no numbers, first '3+' in row 3: taken as a category" in few.notes


@pytest.mark.parametrize(
    ("format", "hours"),
    [
        ("%Y-%m-%d", 0), ("%m/%d/%Y", 0), ("%d.%m.%Y", 0), ("%b %d %Y", 0), ("%d-%b-%y", 0), ("%Y-%m-%dT%H:%M:%SZ", 1),
        ("%d/%m/%Y %H:%M", 1),
    ],
)  # fmt: skip
def test_dates_are_days_and_said_to_be(tmp_path, format: str, hours: int):
    dates = pd.date_range("2020-01-05", periods=60, freq="9D") + pd.Timedelta(hours=6 * hours)
    table = table_of(["x"]).assign(x=dates.strftime(format))
    table.loc[5, "x"] = "NA"
    found = understood(table, "y")
    assert found.kinds["x"] == "date"
    expected = ((dates - pd.Timestamp("1970-01-01")) / pd.Timedelta(days=1)).to_numpy()
    assert np.isnan(found.X["x"][5])
    np.testing.assert_allclose(found.X["x"].drop(5), np.delete(expected, 5))
    assert any("days since the start of 1970" in note for note in found.notes)
    X, _ = found.batch(table.tail(2))
    np.testing.assert_allclose(X["x"], expected[-2:])


@pytest.mark.parametrize("cells", ["datetime", "date", "zone", "duration"])
def test_dates_of_files_that_know_them_are_days(cells: str):
    dates = pd.Series(pd.date_range("2020-01-05", periods=60, freq="9D"))
    column = {
        "datetime": dates,
        "date": dates.dt.date,
        "zone": dates.dt.tz_localize("UTC"),
        "duration": dates - pd.Timestamp(0),
    }[cells]
    found = understood(table_of(["x"]).assign(x=column), "y")
    assert found.kinds["x"] == "date"
    assert found.X["x"].diff().dropna().unique().tolist() == [9.0]


def test_decimals_are_numbers_and_lists_are_left_out():
    table = table_of([Decimal("3.50"), Decimal("1E+2"), None]).assign(
        many=[[1, 2]] * 60, fields=[{"a": 1}] * 60
    )
    found = understood(table, "y")
    assert found.X["x"].tolist()[:2] == [3.5, 100]
    for name in ("many", "fields"):
        assert any(f"{name}: left out, its cells are lists or mappings" in note for note in found.notes)
        with pytest.raises(FileError, match="holds lists or mappings"):
            understood(table, name)
    assert not understood(table.assign(x=[Decimal(i) for i in range(60)]), "x", drop=["y"]).classifies


def test_codes_are_categories_where_the_user_says_so():
    table = table_of([3, 1, None, 2]).assign(y=[5, 7, 9] * 20)
    found = understood(table.astype({"x": float}), "y", category=["x"])
    assert set(found.X["x"]) == {"3", "1", "(missing)", "2"}
    X, _ = found.batch(table.dropna().astype({"x": int}).head(2))
    assert X["x"].tolist() == ["3", "1"]
    assert understood(table, "y").classifies
    assert not understood(table, "y", number=["y"]).classifies
    many = table.assign(y=[*range(30)] * 2)
    assert not understood(many, "y").classifies
    with pytest.raises(FileError, match="30 different values"):
        understood(many, "y", category=["y"])
    with pytest.raises(FileError, match="said to be text and number: say one"):
        understood(table, "y", text=["x"], number=["x"])
    with pytest.raises(FileError, match="said to be a number, and none of its cells is one"):
        understood(table_of(["a", "b"]), "y", number=["x"])
    assert understood(table.assign(x=[20200105, 20210203] * 30), "y", date=["x"]).X["x"][0] == 18266


@pytest.mark.parametrize("mark", ["NA", "?", "null", "", None])
def test_a_label_that_is_missing_is_no_class(mark):
    table = table_of([1, 2], target=["yes", "no", mark])
    with pytest.raises(
        FileError, match=r"the target 'y' is missing in 20 rows.*first in row 2.*--drop-missing"
    ):
        understood(table, "y")
    found = understood(table, "y", drop_missing=True)
    assert found.X.index.tolist() == found.rows.index.tolist() == [i for i in range(60) if i % 3 < 2]
    assert set(found.y) == {"yes", "no"}
    assert found.notes[0].startswith("20 rows without a y are left out")
    if mark:
        assert set(understood(table, "y", category=["y"]).y) == {"yes", "no", mark}
        with pytest.raises(FileError, match="missing in 1 rows"):
            found.batch(table.iloc[[2]])


def test_a_minus_beside_a_plus_is_a_label():
    assert set(understood(table_of([1, 2], target=["+", "-"]), "y").y) == {"+", "-"}


def test_numbers_and_truth_values_as_targets_keep_their_kind():
    table = table_of([1, 2], target=["NA", "1", "0"])
    assert understood(table, "y", drop_missing=True).y.unique().tolist() == [1, 0]
    table = table_of([1, 2], target=["NA", "TRUE", "FALSE"])
    assert understood(table, "y", drop_missing=True).y.unique().tolist() == ["true", "false"]
    prices = table_of([1, 2]).assign(y=["call", *[f"${i}.50" for i in range(59)]])
    with pytest.raises(
        FileError, match="the target 'y': 1 of its 60 cells is no number, first 'call' in row 0"
    ):
        understood(prices, "y")
    found = understood(prices, "y", number=["y"], drop_missing=True)
    assert found.y.tolist()[:2] == [0.5, 1.5]
    assert not found.classifies


def test_another_file_is_read_as_the_training_file(tmp_path):
    """Its cells alone may say something else: "1,234" with no decimal comma beside it, no truth value but one."""
    table = table_of(["1,234", "3,75", "NA"]).assign(flag=["TRUE", "FALSE", "NA"] * 20)
    found = understood(table, "y")
    other = table.head(1).assign(flag=[True])
    X, _ = found.batch(other)
    assert X["x"].tolist() == [1.234]
    assert X["flag"].tolist() == found.X["flag"].tolist()[:1]
    X, _ = found.batch(table.head(1).assign(x="?", flag="?"))
    assert X["x"].isna().all()
    X, _ = found.batch(pd.concat([table.head(1).assign(flag="maybe")] * 2))
    assert X["flag"].tolist() == ["maybe", "maybe"]
    twice = pd.concat([table.iloc[[0]], table.iloc[[0]], table.iloc[[2]]])
    X, _ = found.batch(twice)  # the same row several times
    assert X["x"].tolist()[:2] == [1.234, 1.234]
    with pytest.raises(FileError, match=r"column 'x' holds numbers.*'far' in row 0"):
        found.batch(table.head(1).assign(x="far"))


def test_the_command_line_takes_what_is_said(tmp_path):
    path = tmp_path / "a.csv"
    table_of(["1", "2", "NA"], target=["yes", "no", "NA"]).assign(day="2020-01-01").to_csv(path, index=False)
    said = ("--target", "y", "--category", "x", "--number", "z", "--drop-missing", "--format", "json")
    result = run("mislabeled", path, *said)
    assert result.exit_code == 0, result.output
    assert "20 rows without a y are left out (20 written 'NA')" in result.stderr
    asked = run("explain", path, *said, "--row", 2, "--k", 1)
    assert asked.exit_code == 0, asked.output
    assert "one of the training rows" not in asked.stderr  # it was left out
    result = run("mislabeled", path, "--target", "y")
    assert result.exit_code == 2
    assert "--drop-missing" in result.stderr


def test_standard_input_is_a_file_like_any_other():
    words = table_of(["1", "2", "NA"]).to_csv(index=False).replace(",", ";").encode()
    result = CliRunner().invoke(app, ["mislabeled", "-", "--target", "y", "--format", "json"], input=words)
    assert result.exit_code == 0, result.output
    assert "read with ';' between cells" in result.stderr
    result = CliRunner().invoke(app, ["review", "-", "--target", "y", "--no-browser"], input=words)
    assert result.exit_code == 2
    assert "a review needs a file" in result.stderr


def test_codes_of_which_some_are_numbers_are_a_category_and_a_few_odd_cells_are_named():
    """Diagnoses (401, 250.83, V58, E11): codes recur. A slip of the pen does not, nor do many words for "missing"."""
    generator = np.random.default_rng(0)
    numbers = [str(number) for number in generator.integers(1, 200, 3000)]
    y = ["yes", "no"] * 1500

    def kinds(odd: list[str]) -> tuple[dict[str, str], str]:
        column = pd.Series([*odd, *numbers[len(odd) :]])
        found = understood(
            pd.DataFrame({"diagnosis": column, "other": generator.normal(size=3000), "y": y}), "y"
        )
        return dict(found.kinds), "\n".join(found.notes)

    found, notes = kinds([f"V{k % 9}" for k in range(90)])
    assert found["diagnosis"] == "category"
    assert (
        "diagnosis: 90 of its 3,000 cells are no numbers, first 'V0' in row 0: taken as a category" in notes
    )
    for odd in ([f"V{k}" for k in range(90)], ["unknown", "refused"] * 45):
        found, notes = kinds(odd)
        assert "diagnosis" not in found
        assert (
            f"diagnosis: left out, 90 of its 3,000 cells are no numbers, first '{odd[0]}' in row 0" in notes
        )

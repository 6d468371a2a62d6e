"""A file with its model: rows are found by name, by condition, in this file or in another."""

import json
from pathlib import Path

import pandas as pd
import pytest
import torch

from tests.support.files import people, run
from upweight.tables import FileError, FittedFile


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    path = tmp_path_factory.mktemp("fitted") / "people.csv"
    people().to_csv(path, index=False)
    return FittedFile.of(path, "opinion", drop=["said"])


def batch_of(
    fitted: FittedFile, test: Path | None = None, row: str | None = None, where: str | None = None
) -> tuple[pd.DataFrame, pd.Series]:
    """A batch of the rows asked about, which of a model that was fitted here is a pair."""
    inputs, targets = fitted.batch(test, row=row, where=where)
    return inputs, targets


def test_questions_of_another_file_by_id(people_file, tmp_path):
    other = people(40, seed=5).assign(name=lambda t: "new " + t["name"])
    other.to_csv(tmp_path / "other.csv", index=False)
    arguments = ("--target", "opinion", "--id", "name", "--test", tmp_path / "other.csv", "--k", 2)
    result = run("explain", people_file, *arguments, "--row", "new person 3", "--format", "json")
    assert result.exit_code == 0, result.output
    assert all(str(line["train row"]).startswith("person ") for line in json.loads(result.stdout))


def test_a_row_and_its_batch_are_those_of_the_file(fitted):
    table = people()
    assert fitted.row("7")["name"] == "person 7"
    X, y = batch_of(fitted, row="7")
    assert X.index.tolist() == [7]
    assert X["age"].tolist() == table.loc[[7], "age"].tolist()
    assert y.tolist() == table.loc[[7], "opinion"].tolist()
    X, y = batch_of(fitted, where="town == 'south'")
    assert X.index.tolist() == table.index[table["town"] == "south"].tolist()
    X, y = batch_of(fitted, where="town == 'south'", row=str(X.index[1]))
    assert len(X) == len(y) == 1
    for wrong in ({"row": "500"}, {"where": "age <"}, {"where": "age < 0", "row": "7"}):
        with pytest.raises(FileError):
            fitted.batch(**wrong)


def test_the_model_is_fitted_to_rounding_on_the_columns_that_it_sees(fitted):
    problem = fitted.linear_problem
    assert problem.n == 120
    assert float(problem.gradient().norm()) < 1e-9
    assert fitted.model.kinds == {"age": "number", "town": "category"}
    assert fitted.model.classifies
    assert fitted.model.refit is None
    assert "logistic regression (C = 1) of opinion on age scaled; town as indicators" in fitted.model.words
    assert any("country: left out" in note for note in fitted.model.notes)


def test_groups_are_words_and_missing_cells_a_group_of_their_own(fitted):
    assert fitted.column("town")[4] == "(missing)"
    assert set(fitted.column("town")) == {"north", "south", "east", "(missing)"}
    with pytest.raises(FileError, match="closest: town"):
        fitted.column("twon")


def test_rows_to_remove_leave_some(fitted):
    assert fitted.rows("age < 30") == people().index[people()["age"] < 30].tolist()
    with pytest.raises(FileError, match="holds of all 120 rows"):
        fitted.rows("name != ''")


@pytest.mark.parametrize("id", ["name", "row"])
def test_rows_of_another_file_have_the_ids_of_the_same_column(tmp_path, id):
    """Also where that column has the name under which rows without ids are listed."""
    table = people().rename(columns={"name": id})
    table.to_csv(tmp_path / "train.csv", index=False)
    table[:40].assign(**{id: [f"new {i}" for i in range(40)]}).to_csv(tmp_path / "test.csv", index=False)
    fitted = FittedFile.of(tmp_path / "train.csv", "opinion", id=id)
    assert fitted.heading == id
    assert fitted.raw.index[7] == "person 7"
    assert fitted.row("new 3", tmp_path / "test.csv")["age"] == pytest.approx(
        fitted.raw["age"].iloc[3], nan_ok=True
    )
    X, _ = batch_of(fitted, tmp_path / "test.csv", row="new 3")
    assert X.index.tolist() == ["new 3"]


def test_without_ids_rows_are_counted(fitted, tmp_path):
    people(30, seed=3).to_csv(tmp_path / "test.csv", index=False)
    assert fitted.heading == "row"
    X, y = batch_of(fitted, tmp_path / "test.csv")
    assert X.index.tolist() == list(range(30))
    values = fitted.linear_problem.evaluate((X, y))
    assert values.shape == (30,)
    assert bool(torch.isfinite(values).all())
    pd.testing.assert_series_equal(y, people(30, seed=3)["opinion"], check_dtype=False)

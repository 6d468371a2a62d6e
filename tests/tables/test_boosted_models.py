"""`--booster`: boosted trees of a table, by the library's own estimator, answered for in the file's own words."""

import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from tests.support.files import people, run
from upweight.tables.boosted_models import BOOSTERS
from upweight.tables.fitted_file import FittedFile
from upweight.tables.reading import FileError
from upweight.trees import TreeProblem

pytest.importorskip("sklearn")
LIBRARIES = list(BOOSTERS)


@pytest.fixture
def table_file(tmp_path: Path) -> Path:
    """People with a category beyond words, a column whose name libraries refuse, and dates."""
    rows = people(300).drop(columns=["said", "name", "country"]).rename(columns={"age": "age [years] <"})
    rows["since"] = pd.date_range("2020-01-01", periods=300).strftime("%Y-%m-%d").to_numpy()
    path = tmp_path / "table.csv"
    rows.to_csv(path, index=False)
    return path


@pytest.mark.parametrize("booster", LIBRARIES)
@pytest.mark.parametrize("target", ["opinion", "age [years] <"])
def test_a_model_says_what_its_library_says_of_the_same_rows(
    table_file: Path, booster: str, target: str
) -> None:
    pytest.importorskip({"hist": "sklearn"}.get(booster, booster))
    fitted = FittedFile.of(table_file, target, booster=booster, drop_missing=True)
    problem = fitted.model.influence.problem
    assert isinstance(problem, TreeProblem)
    outputs = problem.outputs(problem.prepared(fitted.batch())[0])
    assert torch.allclose(outputs, problem.fitted.scores)
    table = fitted.table
    assert table is not None
    classes, codes = (None, table.y) if target != "opinion" else (("dislikes", "likes"), table.y == "likes")
    assert problem.classes == classes
    own = (
        BOOSTERS[booster]
        .pipeline(table)
        .fit(table.X, codes.to_numpy().astype(float if classes is None else int))
    )
    said = (outputs[:, 0] > 0) if classes else outputs[:, 0]
    np.testing.assert_allclose(said.numpy().astype(float), own.predict(table.X), rtol=1e-5, atol=1e-5)
    assert problem.feature_names == tuple(fitted.model.kinds)


@pytest.mark.parametrize("booster", LIBRARIES)
def test_trained_again_on_all_rows_it_is_the_same_model(table_file: Path, booster: str) -> None:
    pytest.importorskip({"hist": "sklearn"}.get(booster, booster))
    fitted = FittedFile.of(table_file, "opinion", booster=booster)
    fitted.model.check_refit()
    assert fitted.model.again is not None
    again = fitted.model.again(torch.arange(len(fitted.raw)))
    assert torch.allclose(again.theta, fitted.model.influence.problem.theta, atol=1e-9)
    batch = fitted.batch(row="3")  # labels are the file's own words there too
    assert again.evaluate(batch).isfinite().all()


def test_unknown_categories_are_missing(table_file: Path) -> None:
    fitted = FittedFile.of(table_file, "opinion", booster="hist")
    rows = fitted.raw.head(2).assign(town=["nowhere", "north"])
    assert fitted.model.influence.problem.evaluate(fitted.model.batches(rows, Path())).isfinite().all()


def test_of_many_categories_the_rare_ones_are_missing() -> None:
    from upweight.tables.as_categories import MOST, AsCategories

    cells = [f"c{j}" for j in range(MOST + 50)] + [f"c{j}" for j in range(100, MOST + 50)] * 2
    X = pd.DataFrame({"code": pd.Series(cells, dtype=object)})
    found = AsCategories(["code"]).fit(X).transform(X)["column 0"]
    assert len(found.cat.categories) == MOST
    assert found[100 : MOST + 50].notna().all()
    assert found[:100].isna().sum() == 50
    words = AsCategories(["code"], missing=False).fit(X).transform(X)["column 0"]
    assert (words[found.isna()] == "(rare)").all()


def test_missing_numbers_are_left_missing(table_file: Path) -> None:
    fitted = FittedFile.of(table_file, "opinion", booster="hist")
    assert "age [years] <: 1 missing values, left missing" in fitted.model.notes


def test_text_is_refused(people_file: Path) -> None:
    with pytest.raises(
        FileError, match="said holds text: leave it out with --drop said, or leave --booster out"
    ):
        FittedFile.of(people_file, "opinion", booster="hist")


def test_a_model_of_ones_own_leaves_nothing_to_fit(people_file: Path) -> None:
    with pytest.raises(FileError, match="leave one out"):
        FittedFile.of(people_file, "opinion", booster="hist", model=Path("m.skops"))


def test_a_library_that_is_not_there_is_named(people_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lightgbm", None)
    found = run(
        "explain", people_file, "--target", "opinion", "--row", 1, "--booster", "lightgbm", "--drop", "said"
    )
    assert found.exit_code == 2
    assert 'LightGBM is not installed: pip install "upweight[lightgbm]"' in found.stderr


def test_rows_that_are_asked_about_are_held_out_of_trees(table_file: Path) -> None:
    found = run("mismatch", table_file, "--target", "opinion", "--by", "town", "--booster", "hist")
    assert found.exit_code == 0
    assert "the model is fitted to 240 rows" in found.stderr


def test_a_removal_is_answered_by_leaves_computed_anew(table_file: Path) -> None:
    words = (
        "--target",
        "opinion",
        "--where",
        "town == 'north'",
        "--booster",
        "hist",
        "--verify",
        "--fail-over",
        9,
    )
    found = run("remove", table_file, *words)
    assert found.exit_code == 0
    assert "group,retrained,size,recomputed,first order" in found.stdout


def test_a_measure_without_a_derivative_is_asked_of_groups(table_file: Path) -> None:
    ask = ("--target", "opinion", "--booster", "hist", "--measure", "auroc")
    refused = run("explain", table_file, *ask)
    assert refused.exit_code == 2
    assert "remove --where" in refused.stderr
    found = run("remove", table_file, *ask, "--where", "town == 'north'")
    assert found.exit_code == 0
    assert np.isfinite(float(found.stdout.splitlines()[1].split(",")[2]))  # recomputed, the best


def test_labels_by_a_booster_are_doubted_out_of_fold(table_file: Path) -> None:
    answer = run("mislabeled", table_file, "--target", "opinion", "--k", 2, "--booster", "hist")
    assert answer.stdout.startswith("row,label,proposed label,contradicted,loss without the row"), (
        answer.stderr
    )
    assert "are contradicted" in answer.stderr

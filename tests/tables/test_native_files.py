"""`--model` with the files of XGBoost, LightGBM and CatBoost: the table's columns as they were trained on."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from tests.support.files import people, run
from upweight.tables.fitted_file import FittedFile
from upweight.tables.reading import FileError

pytest.importorskip("sklearn")


@pytest.fixture
def table_file(tmp_path: Path) -> Path:
    rows = people(300).drop(columns=["said", "name", "country"]).rename(columns={"age": "the age"})
    path = tmp_path / "table.csv"
    rows.to_csv(path, index=False)
    return path


def trained(table_file: Path, library: str) -> tuple[Path, np.ndarray]:
    """A model of the table in a file of its library, and the scores that this gives."""
    rows = pd.read_csv(table_file)
    X, y = rows[["the age", "town"]].astype({"town": "category"}), (rows.opinion == "likes").astype(int)
    if library == "lightgbm":
        lightgbm = pytest.importorskip("lightgbm")
        model = lightgbm.LGBMClassifier(n_estimators=20, n_jobs=1, verbosity=-1).fit(X, y)
        path = table_file.with_suffix(".txt")
        model.booster_.save_model(path)
        return path, model.predict(X, raw_score=True)
    if library == "catboost":
        catboost = pytest.importorskip("catboost")
        X = X.astype({"town": object}).fillna({"town": "nan"})
        model = catboost.CatBoostClassifier(
            iterations=20,
            one_hot_max_size=10,
            cat_features=["town"],
            thread_count=1,
            verbose=False,
            allow_writing_files=False,
        ).fit(X, rows.opinion)
        path = table_file.with_suffix(".cbm")
        model.save_model(str(path))
        return path, model.predict(X, prediction_type="RawFormulaVal")
    xgboost = pytest.importorskip("xgboost")
    model = xgboost.XGBClassifier(n_estimators=20, n_jobs=1, reg_lambda=2.0, enable_categorical=True).fit(
        X, y
    )
    path = table_file.with_suffix(".json" if library == "json" else ".ubj")
    model.save_model(path)
    return path, model.predict(X, output_margin=True)


@pytest.mark.parametrize("library", ["ubj", "json", "lightgbm", "catboost"])
def test_a_file_of_trees_says_what_it_said_when_it_was_trained(table_file: Path, library: str) -> None:
    path, scores = trained(table_file, library)
    fitted = FittedFile.of(table_file, "opinion", model=path)
    problem = fitted.model.influence.problem
    assert problem.output_model is not None
    found = problem.output_model.outputs(problem.output_model.prepared(fitted.batch())[0])
    assert np.allclose(found[:, 0].numpy(), scores, atol=1e-5)
    assert problem.classes == ("dislikes", "likes")
    answer = run("explain", table_file, "--target", "opinion", "--row", 5, "--model", path)
    assert answer.exit_code == 0


@pytest.mark.parametrize("library", ["ubj", "lightgbm", "catboost"])
def test_trees_whose_file_has_the_parameters_are_trained_again(table_file: Path, library: str) -> None:
    path, _ = trained(table_file, library)
    fitted = FittedFile.of(table_file, "opinion", model=path)
    again, problem = fitted.model.again, fitted.model.influence.problem
    assert again is not None
    atol = 1e-6 if library == "ubj" else 1e-9  # of XGBoost lambda is found by a regression in float32
    assert torch.allclose(again(torch.arange(problem.n)).theta, problem.theta, atol=atol)
    answer = run("verify", table_file, "--target", "opinion", "--row", 5, "--k", 2, "--model", path)
    assert answer.stdout.startswith("train row,group,predicted,actual"), answer.stderr
    answer = run("mismatch", table_file, "--target", "opinion", "--by", "town", "--model", path)
    assert answer.exit_code == 0, answer.stderr
    where = ("--where", "town == 'north'", "--verify", "--format", "csv")
    answer = run("remove", table_file, "--target", "opinion", *where, "--model", path)
    assert "retrained" in answer.stdout, answer.stderr  # whether the prediction holds is another matter


@pytest.mark.parametrize(
    "settings",
    [
        {"learning_rate": 0.07, "reg_lambda": 5.0, "max_depth": 2},
        {"reg_alpha": 0.5, "scale_pos_weight": 2.0, "base_score": 0.3},
        {"num_parallel_tree": 2, "tree_method": "exact"},
    ],
    ids=str,
)
def test_what_a_file_of_xgboost_lost_follows_from_its_first_tree(table_file: Path, settings: dict) -> None:
    xgboost = pytest.importorskip("xgboost")
    rows = pd.read_csv(table_file).drop(columns="town")
    rows.to_csv(table_file, index=False)
    path = table_file.with_suffix(".json")
    model = xgboost.XGBClassifier(n_estimators=12, n_jobs=1, **settings)
    model.fit(rows[["the age"]], rows.opinion == "likes").save_model(path)
    fitted = FittedFile.of(table_file, "opinion", model=path)
    again, problem = fitted.model.again, fitted.model.influence.problem
    assert again is not None
    found, own = again(torch.arange(problem.n)).theta, problem.theta
    assert torch.allclose(found, own, atol=1e-6 * float(own.abs().max()))
    kept = np.arange(problem.n) != 3
    there = xgboost.XGBClassifier(n_estimators=12, n_jobs=1, **settings)
    there.fit(rows.loc[kept, ["the age"]], (rows.opinion == "likes")[kept])
    scores = there.predict(rows[["the age"]], output_margin=True)
    left = again(torch.from_numpy(np.flatnonzero(kept))).output_model
    outputs = left.outputs(left.prepared(fitted.batch())[0])[:, 0]
    assert np.allclose(outputs, scores, atol=1e-5)


def test_trees_whose_file_lacks_the_parameters_are_not_trained_again(table_file: Path) -> None:
    xgboost, rows = pytest.importorskip("xgboost"), pd.read_csv(table_file)
    X, path = rows[["the age", "town"]].astype({"town": "category"}), table_file.with_suffix(".ubj")
    model = xgboost.XGBClassifier(n_estimators=5, min_child_weight=20, n_jobs=1, enable_categorical=True)
    model.fit(X, rows.opinion == "likes").save_model(path)
    refused = run("verify", table_file, "--target", "opinion", "--row", 5, "--model", path)
    assert refused.exit_code == 2
    assert "the trees come out otherwise (they have" in refused.stderr
    assert "give --booster in place of --model" in refused.stderr


def test_parameters_that_give_other_trees_are_found_out(table_file: Path) -> None:
    lightgbm, (path, _) = pytest.importorskip("lightgbm"), trained(table_file, "lightgbm")
    rows = pd.read_csv(table_file)
    X, y = rows[["the age", "town"]].astype({"town": "category"}), (rows.opinion == "likes").astype(int)
    model = lightgbm.LGBMClassifier(
        n_estimators=20, n_jobs=1, verbosity=-1, interaction_constraints=[[0], [1]]
    )
    model.fit(X, y).booster_.save_model(path)
    text = path.read_text()
    path.write_text(text.replace("[interaction_constraints:", "[no_constraints:"))
    refused = run("verify", table_file, "--target", "opinion", "--row", 5, "--model", path)
    assert refused.exit_code == 2
    assert "the trees come out otherwise" in refused.stderr


@pytest.mark.parametrize("library", ["ubj", "lightgbm", "catboost"])
def test_other_columns_and_classes_are_named(table_file: Path, library: str) -> None:
    path, _ = trained(table_file, library)
    rows = pd.read_csv(table_file)
    rows.rename(columns={"the age": "years"}).to_csv(table_file, index=False)
    with pytest.raises(FileError, match=r"no column 'the[ _]age'"):
        FittedFile.of(table_file, "opinion", model=path)
    rows.assign(opinion=np.where(np.arange(300) < 99, "neither", rows.opinion)).to_csv(
        table_file, index=False
    )
    with pytest.raises(FileError, match=r"tells 2 classes apart, and 'opinion' has 3 values"):
        FittedFile.of(table_file, "opinion", model=path)


@pytest.mark.parametrize("library", ["ubj", "lightgbm", "catboost"])
def test_other_labels_do_not_follow(table_file: Path, library: str) -> None:
    path, _ = trained(table_file, library)
    rows = pd.read_csv(table_file)
    rows.assign(opinion=rows.opinion.to_numpy()[::-1]).to_csv(table_file, index=False)
    answer = run("explain", table_file, "--target", "opinion", "--row", 5, "--model", path)
    assert answer.exit_code != 0
    assert "do not follow from the data" in answer.stderr


@pytest.mark.parametrize(
    ("suffix", "library"), [("ubj", "xgboost"), ("json", "xgboost"), ("txt", "lightgbm"), ("cbm", "catboost")]
)
def test_a_file_of_something_else_is_refused(table_file: Path, suffix: str, library: str) -> None:
    pytest.importorskip(library)
    path = table_file.with_name(f"other.{suffix}")
    path.write_text("nothing of the kind")
    with pytest.raises(FileError, match=rf"other\.{suffix}: cannot be read as a model of"):
        FittedFile.of(table_file, "opinion", model=path)


def test_rows_in_leaves_that_a_removal_empties_are_left_out_of_the_mean_and_counted(table_file: Path) -> None:
    lightgbm, rows = pytest.importorskip("lightgbm"), pd.read_csv(table_file)
    X = rows[["the age", "town"]].astype({"town": "category"})
    model = lightgbm.LGBMClassifier(n_estimators=3, min_child_samples=2, n_jobs=1, verbosity=-1)
    path = table_file.with_suffix(".txt")
    model.fit(X, (rows.opinion == "likes").astype(int)).booster_.save_model(path)
    where = ("--where", "`the age` > 45", "--verify", "--format", "csv")
    answer = run("remove", table_file, "--target", "opinion", *where, "--model", path, "--fail-over", 1e9)
    assert answer.exit_code == 0, answer.stderr
    assert "rows asked about have no prediction: a leaf that they are in has no other" in answer.stderr
    assert "nan" not in answer.stdout.lower()
    assert ",," not in answer.stdout


@pytest.mark.parametrize("library", ["ubj", "lightgbm", "catboost"])
def test_labels_are_doubted_out_of_fold_as_by_the_estimator(table_file: Path, library: str) -> None:
    path, _ = trained(table_file, library)
    answer = run("mislabeled", table_file, "--target", "opinion", "--k", 2, "--model", path)
    assert answer.stdout.startswith("row,label,proposed label,contradicted,loss without the row"), (
        answer.stderr
    )
    assert "are contradicted" in answer.stderr
    assert (
        run("mislabeled", table_file, "--target", "opinion", "--fail-over", 0, "--model", path).exit_code == 3
    )


def test_labels_by_trees_that_are_not_trained_again_are_ranked_by_their_loss_with_the_reason(
    table_file: Path,
) -> None:
    xgboost, rows = pytest.importorskip("xgboost"), pd.read_csv(table_file)
    for target, model in {
        "opinion": xgboost.XGBClassifier(n_estimators=5, min_child_weight=20, n_jobs=1),
        "the age": xgboost.XGBRegressor(n_estimators=5, min_child_weight=20, n_jobs=1),
    }.items():
        own = rows.dropna().assign(number=np.arange(len(rows.dropna())) % 7)
        own = own[["number", "opinion", "the age"]].assign(opinion=own.opinion == "likes")
        own.to_csv(table_file, index=False)
        path = table_file.with_suffix(".ubj")
        model.fit(own.drop(columns=target), own[target]).save_model(path)
        asked = ("mislabeled", table_file, "--target", target, "--k", 2, "--model", path)
        answer = run(*asked)
        kind = "label" if target == "opinion" else "value"
        assert (
            f"ranked by their loss, for the estimator is not there to be fitted again without them: no {kind}"
            in (answer.stderr)
        )
        assert "the trees come out otherwise" in answer.stderr
        assert "self-influence" not in answer.stderr
        refused = run(*asked, "--fail-over", 0.1)
        assert refused.exit_code == 2
        assert "needs labels that the model proposes" in refused.stderr

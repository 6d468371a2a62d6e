"""Questions about groups of rows: what is predicted is what fitting again does."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from tests.support.files import NETWORK, people, ridge, run


def test_mismatch_and_remove_name_their_groups(people_file):
    asked = (
        "--by",
        "town",
        "--where",
        "town == 'south'",
        "--seed",
        1,
    )  # which leaves row 4 in the training rows
    result = run("mismatch", people_file, "--target", "opinion", *asked)
    assert result.exit_code == 0, result.output
    assert {"north", "south", "east", "(missing)"} == {
        line.split(",")[0] for line in result.stdout.splitlines()[1:]
    }
    result = run(
        "remove", people_file, "--target", "opinion", "--where", "age < 30", "--row", 7, "--format", "json"
    )
    assert result.exit_code == 0, result.output
    assert "newton" in json.loads(result.stdout)[0]


def test_remove_predicts_what_fitting_again_does(tmp_path):
    table = people(300).dropna()[["age", "opinion"]].reset_index(drop=True)
    table["opinion"] = table["opinion"] == "likes"
    path = tmp_path / "a.csv"
    table.to_csv(path, index=False)
    model = make_pipeline(StandardScaler(), LogisticRegression(C=1.0, tol=1e-10, max_iter=1000))
    skops = pytest.importorskip("skops.io")
    saved = tmp_path / "model.skops"
    skops.dump(model.fit(table[["age"]], table["opinion"]), saved)
    asked = (
        "--target",
        "opinion",
        "--model",
        saved,
        "--where",
        "age < 28",
        "--format",
        "json",
        "--test",
        path,
    )
    result = run("remove", path, *asked, "--verify", "--guarantee")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)[0]
    gone = (table["age"] < 28).to_numpy()
    assert found["size"] == gone.sum()
    X, sign = model[0].transform(table[["age"]]), np.where(table["opinion"], 1, -1)
    losses = []
    for kept in (np.ones(len(table), bool), ~gone):
        refit = LogisticRegression(C=1.0, tol=1e-10, max_iter=1000).fit(X[kept], sign[kept])
        losses.append(np.logaddexp(0, -sign * refit.decision_function(X)).mean())
    actual = losses[1] - losses[0]
    assert abs(found["newton"] - actual) < 0.05 * abs(actual)
    # Of means, not a mean of ratios, which is anything where some rows' effects are nearly zero.
    assert found["only together"] == pytest.approx(found["newton"] - found["rescaled"])
    assert found["retrained"] == pytest.approx(actual, rel=1e-5)
    assert found["low"] - 1e-9 <= actual <= found["high"] + 1e-9
    assert "Believe the column retrained" in result.stderr
    result = run("remove", path, *asked, "--verify", "--fail-over", 1e-6)
    assert result.exit_code == 1
    assert "the prediction does not hold: newton says" in result.stderr


@pytest.mark.parametrize("flags", [(), ("--guarantee",)])
def test_without_test_a_fifth_is_asked_about_that_the_model_has_not_seen(people_file, flags):
    asked = ("--target", "opinion", "--drop", "said", "--where", "age < 30", "--format", "json", *flags)
    result = run("remove", people_file, *asked)
    assert result.exit_code == 0, result.output
    assert "the model is fitted to 96 rows, and asked about the 24 others" in result.stderr
    assert ("Believe the columns low and high" if flags else "Believe the column newton") in result.stderr
    held = set(torch.randperm(120, generator=torch.Generator().manual_seed(0))[:24].tolist())
    young = people().index[people()["age"] < 30]
    assert json.loads(result.stdout)[0]["size"] == len(set(young) - held)
    result = run("remove", people_file, *asked, "--row", 7)  # a row that is named is asked about as it is
    assert json.loads(result.stdout)[0]["size"] == len(young)
    assert "a fifth" not in result.stderr


def test_what_no_removal_can_answer_is_said(tmp_path):
    table = people().assign(opinion=lambda t: t["opinion"].where(t.index % 40 > 0, "neither"))
    table.to_csv(tmp_path / "three.csv", index=False)
    asked = (
        "remove",
        tmp_path / "three.csv",
        "--target",
        "opinion",
        "--test",
        tmp_path / "three.csv",
        "--where",
    )
    assert "no training row is left of neither" in run(*asked, "opinion == 'neither'").stderr
    assert "is left of" not in run(*asked, "age < 30").stderr
    people().fillna({"age": 40.0}).to_csv(tmp_path / "ages.csv", index=False)
    bounds = ("--target", "age", "--where", "town == 'south'", "--guarantee")
    result = run("remove", tmp_path / "ages.csv", *bounds)
    assert result.exit_code == 2
    assert "of a quantity the column newton is what retraining gives" in result.stderr


def test_columns_to_believe_and_columns_that_a_network_has(tmp_path, monkeypatch):
    table = people().assign(size=1.5).fillna({"age": 40.0})
    table.to_csv(tmp_path / "a.csv", index=False)
    (tmp_path / "groups_network.py").write_text(NETWORK)
    monkeypatch.chdir(tmp_path)
    asked = (
        "remove",
        "a.csv",
        "--target",
        "opinion",
        "--problem",
        "groups_network:problem",
        "--where",
        "age < 30",
    )
    assert "--test FILE is needed" in run(*asked).stderr
    result = run(*asked, "--row", 7)
    assert "is all that is known before" in result.stderr
    assert "Finishing the training would change the loss" in result.stderr
    grouped = run("mismatch", *asked[1:6], "--by", "town", "--test", "a.csv")
    assert "Columns responsible" not in grouped.stderr  # nothing is known of them
    assert "retrained" in run(*asked, "--row", 7, "--verify", "--fail-over", 100).stdout


def test_of_a_quantity_the_prediction_of_a_row_changes_in_its_own_unit(houses_file, tmp_path):
    """Least squares: the Newton step is what fitting again gives. The row's own price is not needed."""
    table = pd.read_csv(houses_file)
    new, gone = tmp_path / "new.csv", (table["size"] > 150).to_numpy()
    table.drop(columns="price").to_csv(new, index=False)
    asked = ("--target", "price", "--where", "size > 150", "--format", "json", "--row", 5)
    result = run("remove", houses_file, *asked, "--test", new, "--verify")
    assert result.exit_code == 0, result.output
    X, model = ridge(table)
    refit = type(model)().fit(X[~gone], table["price"][~gone])
    wanted = refit.predict(X[[5]])[0] - model.predict(X[[5]])[0]
    found = json.loads(result.stdout)[0]
    assert found["newton"] == pytest.approx(wanted, rel=1e-6)
    assert found["retrained"] == pytest.approx(wanted, rel=1e-6)
    for words in ("the row has no price", "Effects are in the unit of price", "the prediction would rise"):
        assert words in result.stderr
    result = run("remove", houses_file, *asked, "--measure", "loss")
    assert "positive = the loss would rise" in result.stderr

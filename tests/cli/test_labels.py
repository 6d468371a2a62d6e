"""Suspicious labels: what the library says, a gate with its own code, and cells that no spreadsheet runs."""

import io

import numpy as np
import pandas as pd
import pytest

from tests.support.compare import assert_close_per_row
from tests.support.files import people, ridge, run
from upweight import Influence, from_estimator, mislabeled
from upweight.tables import read, sensible, understood


def test_mislabeled_finds_flipped_labels_and_says_what_the_library_says(people_file, tmp_path):
    table = people(300)
    flipped = [10, 50, 90, 200]
    table.loc[flipped, "opinion"] = table.loc[flipped, "opinion"].map(
        {"likes": "dislikes", "dislikes": "likes"}
    )
    path, out = tmp_path / "flipped.csv", tmp_path / "out.csv"
    table.to_csv(path, index=False)
    result = run("mislabeled", path, "--target", "opinion", "--out", out)
    assert result.exit_code == 0, result.output
    found = pd.read_csv(out, index_col="row")
    assert len(found) == 300
    assert set(flipped) <= set(found.index[:8])
    understood_ = understood(read(path), "opinion")
    model = sensible(understood_).fit(understood_.X, understood_.y)
    problem = from_estimator(model, understood_.X, understood_.y, polish=True)
    wanted = mislabeled(Influence(problem)).table
    assert found.index.tolist() == wanted.index.tolist()
    column = "loss without the row"
    assert_close_per_row(found[column].to_numpy()[:, None], wanted[column].to_numpy()[:, None], 1e-6)


def test_the_gate_fails_with_its_own_code(people_file):
    assert run("mislabeled", people_file, "--target", "opinion", "--fail-over", 1.0).exit_code == 0
    result = run("mislabeled", people_file, "--target", "opinion", "--drop", "said", "--fail-over", 0.0)
    assert result.exit_code == 3
    assert "contradict" in result.output


def test_text_that_a_spreadsheet_would_run_is_written_inert(tmp_path):
    table = people()
    table["name"] = ["=1+1", "@x", "+2+A1"] + [f"person {i}" for i in range(len(table) - 3)]
    path, out = tmp_path / "a.csv", tmp_path / "out.csv"
    table.to_csv(path, index=False)
    result = run("mislabeled", path, "--target", "opinion", "--id", "name", "--out", out)
    assert result.exit_code == 0, result.output
    cells = [line.split(",")[0] for line in out.read_text().splitlines()]
    assert {"'=1+1", "'@x", "'+2+A1"} <= set(cells)
    assert not any(cell[:1] in "=+@" for cell in cells)


def test_columns_that_are_left_out_are_named_in_a_pipe_too(people_file):
    assert "country: left out, it is constant" in run("mislabeled", people_file, "--target", "opinion").stderr


def doubtful(flip: float) -> pd.DataFrame:
    """Rows of which one in 30 is "yes", by chance mostly; a share of the labels is flipped."""
    random = np.random.default_rng(0)
    x = random.normal(size=3000)
    yes = x + random.logistic(size=3000) > 4
    return pd.DataFrame({"x": x, "z": random.normal(size=3000), "y": yes ^ (random.random(3000) < flip)})


@pytest.mark.parametrize(("flip", "code"), [(0.0, 0), (0.05, 3)])
def test_the_gate_counts_wrong_labels_and_no_ordinary_errors(tmp_path, flip, code):
    path = tmp_path / "a.csv"
    doubtful(flip).to_csv(path, index=False)
    result = run("mislabeled", path, "--target", "y", "--fail-over", 0.02)
    assert result.exit_code == code, result.output
    found = pd.read_csv(io.StringIO(result.stdout), index_col="row")
    assert found["contradicted"].mean() > 0.02 if code else found["contradicted"].mean() < 0.02
    assert (found["proposed label"].notna() | ~found["contradicted"]).all()
    assert not (found["proposed label"].astype(str) == found["label"].astype(str)).any()


def test_of_quantities_the_values_come_first_that_the_others_do_not_expect(houses_file):
    table = pd.read_csv(houses_file)
    table.loc[11, "price"] *= 10
    table.to_csv(houses_file, index=False)
    result = run("mislabeled", houses_file, "--target", "price")
    assert result.exit_code == 0, result.output
    found = pd.read_csv(io.StringIO(result.stdout), index_col="row")
    assert found.index[0] == 11
    X, model = ridge(table)
    kept = np.arange(len(table)) != 11
    said = type(model)().fit(X[kept], table["price"][kept]).predict(X[[11]])[0]
    first = found.iloc[0]
    assert first["price"] == pytest.approx(table["price"][11])
    assert first["said without the row"] == pytest.approx(said, rel=1e-3)
    assert first["error without the row"] == pytest.approx(first["said without the row"] - first["price"])
    assert f"and by {abs(first['error without the row']):,.4g} at most" in result.stderr
    refused = run("mislabeled", houses_file, "--target", "price", "--fail-over", 0.1)
    assert (refused.exit_code, "of classes" in refused.stderr) == (2, True)

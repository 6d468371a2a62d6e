"""Questions about groups of rows: what is predicted is what fitting again does."""

import json

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from tests.support.files import people, run


def test_mismatch_and_remove_name_their_groups(people_file):
    result = run("mismatch", people_file, "--target", "opinion", "--by", "town", "--where", "town == 'south'")
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
    result = run(
        "remove", path, "--target", "opinion", "--model", saved, "--where", "age < 28", "--format", "json"
    )
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)[0]
    gone = (table["age"] < 28).to_numpy()
    assert found["size"] == gone.sum()
    X, sign = model[0].transform(table[["age"]]), np.where(table["opinion"], 1, -1)
    losses = []
    for kept in (np.ones(len(table), bool), ~gone):
        refit = LogisticRegression(C=1.0, tol=1e-10, max_iter=1000).fit(X[kept], sign[kept])
        losses.append(np.logaddexp(0, -sign * refit.decision_function(X)).mean())
    assert abs(found["newton"] - (losses[1] - losses[0])) < 0.05 * abs(losses[1] - losses[0])
    # Of means, not a mean of ratios, which is anything where some rows' effects are nearly zero.
    assert found["only together"] == pytest.approx(found["newton"] - found["rescaled"])

"""Answers in a notebook: each shows itself, and text of the user's data stays text."""

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression

import upweight as uw

SCRIPT = "<script>alert(1)</script>"


@pytest.fixture(scope="module")
def answers():
    random = np.random.default_rng(0)
    X = pd.DataFrame(
        random.normal(size=(80, 3)),
        columns=[f"a{SCRIPT}", "b", "c"],
        index=[f"{i}{SCRIPT}" for i in range(80)],
    )
    y = np.where(X.iloc[:, 0] > 0.1, SCRIPT, "no")
    influence = uw.Influence(uw.from_estimator(LogisticRegression().fit(X, y), X, y, polish=True))
    test = X[:1], y[:1]
    return {
        "scores": influence.on_loss(test),
        "explain": uw.explain(influence, test, k=2),
        "mislabeled": uw.mislabeled(influence),
        "mismatch": uw.mismatch(influence, test, by=y),
        "verify": uw.verify(influence, test, k=3),
        "removal": influence.of_removal({SCRIPT: [1, 2]}, test),
        "trust": uw.trust(influence, test),
    }


@pytest.mark.parametrize(
    "name", ["scores", "explain", "mislabeled", "mismatch", "verify", "removal", "trust"]
)
def test_an_answer_shows_itself_and_runs_nothing(answers, name):
    html = answers[name]._repr_html_()
    assert "<script" not in html
    assert html.startswith("<p>")
    assert name == "trust" or ("<table" in html and "&lt;script&gt;" in html)
    assert "object at 0x" not in repr(answers[name])

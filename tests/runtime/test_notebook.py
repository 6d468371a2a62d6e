"""Answers in a notebook: each shows itself, and text of the user's data stays text."""

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression

import upweight as uw
from upweight.runtime.notebook import as_html

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


def test_parts_stand_in_the_order_in_which_they_are_given():
    table = pd.DataFrame({"a": [1]}, index=["row"])
    html = as_html("before", table, "after")
    assert html.index("<p>before</p>") < html.index("<table") < html.index("row") < html.index("<p>after</p>")
    assert as_html() == ""


@pytest.mark.parametrize("where", ["line", "cell", "column", "row"])
def test_text_of_the_user_is_escaped_wherever_it_stands(where: str):
    part = {
        "line": SCRIPT,
        "cell": pd.DataFrame({"a": [SCRIPT]}),
        "column": pd.DataFrame({SCRIPT: [1]}),
        "row": pd.DataFrame({"a": [1]}, index=[SCRIPT]),
    }[where]
    html = as_html(part)
    assert "<script" not in html
    assert "&lt;script&gt;" in html


def test_quotes_and_ampersands_of_a_line():
    assert as_html("a & \"b\" < 'c'") == "<p>a &amp; &quot;b&quot; &lt; &#x27;c&#x27;</p>"

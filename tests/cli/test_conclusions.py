"""`upweight robustness`: the table of conclusions about a coefficient, and what is refused."""

import json

import numpy as np
import pandas as pd
import pytest

from tests.support.files import run

pytestmark = pytest.mark.usefixtures("quick_proofs")


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """A study of 60 rows in ten villages: a treatment, an age with a missing value, a town."""
    rng = np.random.default_rng(0)
    table = pd.DataFrame(
        {
            "treatment": rng.integers(0, 2, 60),
            "age": rng.integers(20, 60, 60).astype(float),
            "village": [f"v{j}" for j in np.arange(60) % 10],
            "town": np.where(rng.random(60) < 0.5, "north", "south"),
        }
    )
    table["income"] = 10 + 2 * table.treatment + 0.1 * table.age + rng.normal(size=60) * 2
    table["works"] = np.where(table.income + rng.normal(size=60) * 3 > 15, "yes", "no")
    table.loc[3, "age"] = np.nan
    path = tmp_path_factory.mktemp("study") / "study.csv"
    table.to_csv(path, index=False)
    return path, table


def test_a_table_of_conclusions(study):
    path, table = study
    options = ("--target", "income", "--coef", "treatment", "--drop", "village", "--drop", "works")
    result = run("robustness", path, *options, "--format", "json")
    assert result.exit_code == 0, result.output
    lines = {line["what changes"]: line for line in json.loads(result.stdout)}
    assert list(lines) == ["sign", "significance", "sign and significance"]
    kept = table.dropna()
    X = np.c_[kept.treatment, kept.age, kept.town == "south", np.ones(len(kept))].astype(float)
    estimate = np.linalg.lstsq(X, kept.income, rcond=None)[0][0]
    for line in lines.values():
        np.testing.assert_allclose(line["estimate"], estimate, rtol=1e-8)
        assert line["found"] is None or line["certified"] < line["found"]
    assert lines["significance"]["found"] <= lines["sign"]["found"]
    assert "1 rows with missing values are left out" in result.stderr


def test_clusters_and_classes(study):
    path, _ = study
    options = ("--coef", "treatment", "--cluster", "village", "--drop", "village")
    result = run("robustness", path, "--target", "income", *options, "--drop", "works")
    assert result.exit_code == 0, result.output
    assert "'village" not in result.stderr
    result = run("robustness", path, "--target", "works", *options, "--drop", "income", "--format", "json")
    assert result.exit_code == 0, result.output
    assert [line["what changes"] for line in json.loads(result.stdout)] == ["sign"]
    assert "least squares alone" in result.stderr


def test_several_coefficients_and_a_table_for_a_paper(study, tmp_path):
    path, _ = study
    latex = tmp_path / "table.tex"
    options = ("--target", "income", "--drop", "village", "--drop", "works", "--latex", latex)
    asked = ("robustness", path, *options, "--coef", "treatment", "--coef", "age", "--format", "json")
    result = run(*asked)
    assert result.exit_code == 0, result.output
    lines = json.loads(result.stdout)
    assert {line["coefficient"] for line in lines} == {"treatment", "age"}
    assert latex.read_text().count("treatment &") == sum(line["coefficient"] == "treatment" for line in lines)
    assert "certified: no set of so many or fewer changes it" in result.stderr
    assert "ridge" not in result.stderr
    assert "median" not in result.stderr


def test_nothing_is_shown_where_there_is_no_number(study):
    path, _ = study
    options = ("--target", "income", "--drop", "village", "--drop", "works", "--coef", "treatment")
    assert "<NA>" not in run("robustness", path, *options, "--format", "table").stdout


def test_a_report_says_how_robust_conclusions_are(study, tmp_path):
    path, _ = study
    alone, both = tmp_path / "alone.html", tmp_path / "both.html"
    options = ("--target", "income", "--drop", "village", "--drop", "works", "--coef", "treatment")
    answer = run("robustness", path, *options, "--format", "json")
    found = json.loads(answer.stdout)[0]
    for out, row in ((alone, ()), (both, ("--row", 5, "--checked", 3, "--fail-over", 100))):
        result = run("report", path, *options, *row, "--out", out)
        assert result.exit_code == 0, result.output
        text = out.read_text()
        assert "What would have to go before treatment says something else?" in text
        assert f'<td class="number">{found["found"]}</td>' in text
        assert f'<td class="number">{found["estimate"]:.4g}</td>' in text
        assert "Least squares of income" in text
        assert ("Verdict." in text) == bool(row)
    refused = run("report", path, *options[:-1], "dose", "--out", tmp_path / "none.html")
    assert (refused.exit_code, "there is no coefficient 'dose'" in refused.stderr) == (2, True)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--coef", "dose"), "there is no coefficient 'dose'"),
        (("--coef", "treatment", "--text", "village"), "no coefficient for village"),
        (("--coef", "treatment", "--cluster", "clan"), "clan"),
    ],
)
def test_what_cannot_be_asked_gets_a_sentence(study, options, words):
    result = run("robustness", study[0], "--target", "income", *options)
    assert result.exit_code != 0
    assert words in result.stderr


def test_a_quantity_of_few_values_is_asked_for(study):
    result = run("robustness", study[0], "--target", "village", "--coef", "age")
    assert (result.exit_code, "if it is a quantity, say --number village" in result.stderr) == (2, True)


@pytest.fixture(scope="module")
def trial(tmp_path_factory):
    """80 patients with a dose, an age, a month and whether they died then."""
    rng = np.random.default_rng(2)
    table = pd.DataFrame({"dose": rng.uniform(size=80), "age": rng.integers(40, 80, 80)})
    table["month"] = np.ceil(rng.exponential(30 * np.exp(-table.dose)))
    table["died"] = (rng.random(80) < 0.8).astype(int)
    path = tmp_path_factory.mktemp("trial") / "trial.csv"
    table.to_csv(path, index=False)
    return path


def test_times_of_events_are_those_of_coxs_model(trial):
    result = run(
        "robustness", trial, "--target", "month", "--event", "died", "--coef", "dose", "--format", "json"
    )
    assert result.exit_code == 0, result.output
    sign = json.loads(result.stdout)[0]
    assert sign["certified"] == 1
    assert sign["estimate"] * sign["without them"] < 0
    assert "Cox's model of month on 2 columns" in result.stderr
    assert "No certificate of larger sets exists" in result.stderr


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--event", "age"), "age must hold 1 for an event and 0 for none"),
        (("--event", "dead"), "dead"),
    ],
)
def test_events_that_are_none_are_refused(trial, options, words):
    result = run("robustness", trial, "--target", "month", "--coef", "dose", *options)
    assert result.exit_code != 0
    assert words in result.stderr

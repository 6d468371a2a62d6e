"""Questions about the prediction of one row."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tests.support.files import people, ridge, run
from upweight.cli import options
from upweight.validation.verify import ROUGH


def test_explain_names_helpful_and_harmful_rows_and_causes(people_file):
    result = run("explain", people_file, "--target", "opinion", "--row", 7, "--k", 3, "--format", "json")
    assert result.exit_code == 0, result.output
    lines = json.loads(result.stdout)
    assert [line["role"] for line in lines] == ["helpful"] * 3 + ["harmful"] * 3
    assert all(line["because of"] for line in lines)


def test_verify_retrains_and_draws(people_file, tmp_path):
    picture, out = tmp_path / "v.png", tmp_path / "v.csv"
    result = run(
        "verify", people_file, "--target", "opinion", "--row", 7, "--k", 5, "--picture", picture, "--out", out
    )
    assert result.exit_code == 0, result.output
    table = pd.read_csv(out)
    assert set(table["group"]) == {"top", "random"}
    top = table[table["group"] == "top"]
    assert np.corrcoef(top["predicted"], top["actual"])[0, 1] > 0.98
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_a_quantity_is_explained_by_its_prediction_in_its_own_unit(houses_file):
    result = run("explain", houses_file, "--target", "price", "--row", 5, "--k", 2, "--format", "json")
    assert result.exit_code == 0, result.output
    table = pd.read_csv(houses_file)
    X, model = ridge(table)
    predicted = model.predict(X)[5]
    miss = predicted - table["price"][5]
    assert (
        f"The model says price = {predicted:,.6g}, the true value is {table['price'][5]:,.6g}: "
        f"{abs(miss):,.4g} too {'high' if miss > 0 else 'low'}." in result.stderr
    )
    assert "Effects are in the unit of price." in result.stderr
    lines = json.loads(result.stdout)
    assert [line["role"] for line in lines] == ["lowers it"] * 2 + ["raises it"] * 2
    for line in lines:
        row = line["train row"]
        assert line["price"] == pytest.approx(table["price"][row])
        kept = np.arange(80) != row
        refit = type(model)().fit(X[kept], table["price"][kept]).predict(X[[5]])[0]
        assert line["removal effect on the prediction"] == pytest.approx(refit - predicted, rel=0.2)
        parts = [float(part.rpartition(" ")[2].strip("()")) for part in line["because of"].split(", ")]
        assert sum(parts) == pytest.approx(
            line["removal effect on the prediction"], abs=0.02 * max(map(abs, parts))
        )


def test_the_loss_of_a_quantity_can_be_asked_about_too(houses_file):
    asked = ("explain", houses_file, "--target", "price", "--row", 5, "--k", 2, "--format", "json")
    result = run(*asked, "--measure", "loss")
    assert "removal effect on the loss" in result.stdout
    assert "half the squared error" in result.stderr
    refused = run(*asked, "--measure", "probability")
    assert (refused.exit_code, "is about classes" in refused.stderr) == (2, True)


@pytest.mark.parametrize("measure", ["probability", "margin", "logit"])
def test_classes_are_asked_about_by_other_measures(people_file, measure):
    asked = ("explain", people_file, "--target", "opinion", "--row", 7, "--k", 2, "--format", "csv")
    result = run(*asked, "--measure", measure)
    assert f"removal effect on the {measure}" in result.stdout
    assert result.stdout.splitlines()[1].split(",")[1] == "lowers it"
    refused = run(*asked, "--measure", "prediction")
    assert (refused.exit_code, "about quantities" in refused.stderr) == (2, True)


@pytest.mark.parametrize("column", ["empty", "left out"])
def test_a_row_without_a_class_is_asked_about_by_the_predicted_one(people_file, tmp_path, column):
    new, asked = tmp_path / "new.csv", ("--target", "opinion", "--row", 7, "--k", 2, "--format", "json")
    table = pd.read_csv(people_file)
    (table.drop(columns="opinion") if column == "left out" else table.assign(opinion=np.nan)).to_csv(
        new, index=False
    )
    result = run("explain", people_file, "--test", new, *asked)
    assert result.exit_code == 0, result.output
    known = run("explain", people_file, *asked)
    predicted = repr(table["opinion"][7])  # the model is right about this row: answers are the same
    assert f"The model says {predicted}, the label is {predicted}." in known.stderr
    assert (
        f"The model says {predicted}, the row has no opinion: {predicted} is taken in its place."
        in result.stderr
    )
    assert json.loads(result.stdout) == json.loads(known.stdout)
    verified = run("verify", people_file, "--test", new, *asked)
    assert verified.exit_code == 0, verified.output
    assert "is taken in its place" in verified.stderr


def test_a_row_without_a_value_is_asked_about_by_its_prediction(houses_file, tmp_path):
    new, asked = tmp_path / "new.csv", ("--target", "price", "--row", 5, "--k", 2, "--format", "json")
    pd.read_csv(houses_file).drop(columns="price").to_csv(new, index=False)
    result, known = run("explain", houses_file, "--test", new, *asked), run("explain", houses_file, *asked)
    assert result.exit_code == 0, result.output
    assert "the row has no price." in result.stderr
    assert json.loads(result.stdout) == json.loads(known.stdout)
    refused = run("explain", houses_file, "--test", new, *asked, "--measure", "loss")
    assert refused.exit_code == 2
    assert "row 5 has no price, so that its loss is not known" in refused.stderr
    report = run(
        "report",
        houses_file,
        "--test",
        new,
        *asked[:4],
        "--k",
        2,
        "--checked",
        4,
        "--out",
        tmp_path / "r.html",
    )
    assert report.exit_code == 0, report.output
    html = (tmp_path / "r.html").read_text()
    assert "the row has no price" in html
    assert "Lowers it: without them the prediction would rise" in html


def test_the_table_of_refits_is_in_plain_words(people_file):
    result = run("verify", people_file, "--target", "opinion", "--row", 7, "--k", 5, "--format", "csv")
    assert result.stdout.splitlines()[0] == "train row,group,predicted,actual,error"


@pytest.mark.parametrize("command", ["verify", "report"])
def test_what_retraining_does_not_confirm_ends_with_a_sentence_and_a_code(people_file, tmp_path, command):
    out = tmp_path / ("v.csv" if command == "verify" else "r.html")
    count = "--k" if command == "verify" else "--checked"
    asked = (command, people_file, "--target", "opinion", "--row", 7, count, 4, "--out", out)
    result = run(*asked)
    assert result.exit_code == 0, result.output
    out.unlink()
    result = run(*asked, "--fail-over", 0.0001, "--quiet")
    assert result.exit_code == 1
    assert "the predictions of the 4 largest effects are off by" in result.stderr
    assert "more than 0.01%" in result.stderr
    assert out.exists()  # the answer is given all the same


def test_explanations_hold_roughly_up_to_the_error_that_verify_says():
    assert options.ROUGH == ROUGH


def test_the_readme_shows_what_is_answered(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "140")
    root = Path(__file__).parents[2]
    code = (
        (root / "docs" / "files.md")
        .read_text(encoding="utf-8")
        .partition("```python\n")[2]
        .partition("```")[0]
    )
    exec(code, {})
    shown = (
        (root / "README.md")
        .read_text(encoding="utf-8")
        .partition("```text\n$ upweight ")[2]
        .partition("```")[0]
    )
    command, *lines = shown.strip().splitlines()
    result = run(*command.split(), "--format", "table")
    said = {line.strip() for line in (result.stdout + result.stderr).splitlines()}
    assert len(lines) > 5
    assert [line for line in lines if line not in said] == []


TOGETHER = ("--target", "opinion", "--format", "json")


@pytest.fixture
def doubtful(tmp_path) -> tuple[Path, Path]:
    """People whose opinion the columns do not decide, to train on and to ask about."""
    table = people(300).dropna().drop(columns="said")
    random = np.random.default_rng(1)
    table["tall"], noise = random.normal(size=len(table)), random.random(len(table)) < 0.3
    table["opinion"] = np.where(noise, "likes", table["opinion"])
    paths = tmp_path / "train.csv", tmp_path / "test.csv"
    for path, part in zip(paths, (table[:150], table[150:]), strict=True):
        part.to_csv(path, index=False)
    return paths


@pytest.mark.parametrize("by", [(), ("--by", "town")])
@pytest.mark.parametrize("measure", ["auroc", "true_positive_rate", "brier"])
def test_one_number_of_many_rows_is_explained_and_verified(doubtful, measure, by):
    train, test = doubtful
    asked = (train, "--test", test, *TOGETHER, "--measure", measure, *by)
    name = f"gap of {measure}" if by else measure
    found = run("explain", *asked, "--k", 2)
    assert found.exit_code == 0, found.output
    assert [line["role"] for line in json.loads(found.stdout)] == ["lowers it"] * 2 + ["raises it"] * 2
    assert f"removal effect on the {name}" in found.stdout
    assert f"The {name} of the 148 rows asked about" in found.stderr
    if by:
        assert "north" in found.stderr
    judged = run("verify", *asked, "--k", 4, "--fail-over", 0.05)
    assert judged.exit_code == 0, judged.output


def test_one_number_of_many_rows_is_reported_and_asked_of_removals(doubtful, tmp_path):
    train, test = doubtful
    out = tmp_path / "report.html"
    asked = (train, "--test", test, "--target", "opinion", "--measure", "auroc", "--by", "town")
    found = run("report", *asked, "--checked", 4, "--k", 2, "--out", out, "--fail-over", 1)
    assert found.exit_code == 0, found.output
    assert "Which training rows move the gap of auroc?" in out.read_text()
    gone = run("remove", *asked, "--where", "age < 30", "--format", "json")
    assert gone.exit_code == 0, gone.output
    assert "the gap of auroc would rise" in gone.stderr
    assert "mean" not in gone.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--measure", "auroc", "--row", 3), "one number of many rows: leave --row out"),
        (("--by", "town"), "--by compares groups"),
        ((), "--row is needed"),
        (("--measure", "roc"), "'average_precision'"),
        (("--measure", "auroc", "--by", "where"), "no column 'where'"),
        (("--measure", "auroc", "--by", "country"), "a gap needs two"),
        (("--measure", "auroc", "--by", "name"), "group 'person "),
    ],
)
def test_questions_about_many_rows_that_cannot_be_answered(doubtful, words, said):
    train, _ = doubtful
    found = run("explain", train, "--target", "opinion", *words)
    assert found.exit_code == 2, found.output
    assert said in found.stderr


def test_a_quantity_has_no_ranking_of_classes(houses_file):
    found = run("explain", houses_file, "--target", "price", "--measure", "auroc")
    assert found.exit_code == 2
    assert "auroc is about classes, and price is a quantity" in found.stderr


@pytest.mark.parametrize("model", [("--booster", "hist", "--drop", "said"), ()])
def test_flip_set_lists_rows_whose_removal_flips_the_prediction(people_file, tmp_path, model):
    asked = ("--target", "opinion", "--row", 7, *model)
    result = run("flip-set", people_file, *asked, "--format", "json")
    assert result.exit_code == 0, result.output
    assert "confirmed by retraining" in result.stderr
    table = pd.read_csv(people_file)
    lines = json.loads(result.stdout)
    assert all(line["opinion"] == table["opinion"][line["train row"]] for line in lines)
    kept = tmp_path / "kept.csv"
    table.drop([line["train row"] for line in lines]).to_csv(kept, index=False)
    again = run("explain", kept, "--test", people_file, *asked, "--k", 1)
    before, after = (
        next(line for line in one.stderr.splitlines() if line.startswith("The model says"))
        for one in (result, again)
    )
    assert before.split("'")[1] != after.split("'")[1]


def test_no_flip_set_ends_with_an_exit_code(people_file):
    asked = ("flip-set", people_file, "--target", "opinion", "--row", 7)
    result = run(*asked, "--booster", "hist", "--drop", "said", "--most", 1)
    assert (result.exit_code, "no such set of 1 rows or fewer" in result.stderr) == (1, True)
    refused = run(*asked, "--booster", "hist", "--drop", "said", "--relabel")
    assert (refused.exit_code, "does not relabel" in refused.stderr) == (2, True)


def test_a_quantity_of_trees_is_moved_past_a_value(houses_file):
    asked = ("flip-set", houses_file, "--target", "price", "--row", 5, "--booster", "hist")
    refused = run(*asked)
    assert (refused.exit_code, "give past=" in refused.stderr) == (2, True)
    result = run(*asked, "--past", 1)
    assert (result.exit_code, "no such set" in result.stderr) == (1, True)

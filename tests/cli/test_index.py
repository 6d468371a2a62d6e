"""An index of a user's file, and explanations from it."""

import json
from pathlib import Path

import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from tests.support.files import NETWORK, people, run


@pytest.mark.parametrize(("target", "file"), [("opinion", "people_file"), ("price", "houses_file")])
def test_explanations_from_an_index_are_those_of_first_order(
    request: pytest.FixtureRequest, tmp_path: Path, target: str, file: str
):
    path = request.getfixturevalue(file)
    made = run("index", path, "--target", target, "--index", tmp_path / "index")
    assert made.exit_code == 0, made.output
    asked = ("explain", path, "--target", target, "--row", 7, "--k", 3, "--format", "json")
    found = run(*asked, "--index", tmp_path / "index")
    assert found.exit_code == 0, found.output
    truth = run(*asked, "--first-order")
    effects = [
        [
            (line["train row"], line["role"], next(v for name, v in line.items() if "effect" in name))
            for line in lines
        ]
        for lines in (json.loads(found.stdout), json.loads(truth.stdout))
    ]
    assert [line[:2] for line in effects[0]] == [line[:2] for line in effects[1]]
    assert [line[2] for line in effects[0]] == pytest.approx([line[2] for line in effects[1]], rel=1e-6)


def test_an_index_of_another_model_is_refused(people_file: Path, houses_file: Path, tmp_path: Path):
    assert run("index", houses_file, "--target", "price", "--index", tmp_path).exit_code == 0
    found = run("explain", people_file, "--target", "opinion", "--row", 7, "--index", tmp_path)
    assert found.exit_code == 1
    assert "was indexed" in found.output or "were indexed" in found.output or "not indexed" in found.output
    nowhere = run("explain", people_file, "--target", "opinion", "--row", 7, "--index", tmp_path / "no")
    assert nowhere.exit_code == 2
    assert "is not an index of gradients" in nowhere.output


@pytest.mark.parametrize(("target", "file"), [("opinion", "people_file"), ("price", "houses_file")])
@pytest.mark.parametrize("many", [False, True], ids=["row", "file"])
def test_removals_from_an_index_are_those_of_first_order(
    request: pytest.FixtureRequest, tmp_path: Path, target: str, file: str, many: bool
):
    path = request.getfixturevalue(file)
    kept = tmp_path / "index"
    made = run("index", path, "--target", target, "--index", kept)
    assert made.exit_code == 0, made.output
    table = pd.read_csv(path)
    column = next(name for name in table.select_dtypes("number") if name != target)
    where = f"{column} < {table[column].quantile(0.2)}"
    asked = ("remove", path, "--target", target, "--where", where, "--format", "json")
    asked = (*asked, *(("--test", path) if many else ("--row", 7)))
    found, truth = run(*asked, "--index", kept), run(*asked)
    assert found.exit_code == 0, found.output
    line, whole = json.loads(found.stdout)[0], json.loads(truth.stdout)[0]
    assert set(line) == {"group", "size", "first order"}
    assert line["size"] == whole["size"]
    assert line["first order"] == pytest.approx(whole["first order"], rel=1e-6)
    assert "first order adds up what each row does alone, by the index" in found.stderr
    assert "The index behind the effects: " in found.stderr


def test_a_removal_from_an_index_states_by_how_much_it_may_be_off(tmp_path, monkeypatch):
    people().assign(size=1.5).fillna({"age": 40.0}).to_csv(tmp_path / "a.csv", index=False)
    (tmp_path / "index_network.py").write_text(NETWORK)
    monkeypatch.chdir(tmp_path)
    known = ("a.csv", "--target", "opinion", "--problem", "index_network:problem")
    made = run("index", *known, "--index", "index", "--error", 0.5)
    assert made.exit_code == 0, made.output
    found = run("remove", *known, "--where", "age < 30", "--row", 7, "--index", "index")
    assert found.exit_code == 0, found.output
    assert "the change without a set is off by" in found.stderr


def test_what_an_index_cannot_answer_of_a_removal_is_refused(people_file: Path, tmp_path: Path):
    kept = tmp_path / "index"
    assert run("index", people_file, "--target", "opinion", "--index", kept).exit_code == 0
    asked = ("remove", people_file, "--target", "opinion", "--where", "age < 30", "--index", kept)
    many = ("--test", people_file, "--measure", "auroc")
    for flags, said in (
        ((), "give one of them"),
        (("--row", 7, "--verify"), "leave --verify out"),
        (("--row", 7, "--guarantee"), "leave --guarantee out"),
        (many, "not for one number of many"),
    ):
        found = run(*asked, *flags)
        assert found.exit_code == 2, found.output
        assert said in found.output
    explained = run("explain", people_file, "--target", "opinion", *many, "--index", kept)
    assert explained.exit_code == 2
    assert "not for one number of many" in explained.output


def test_places_of_another_file_are_refused(tmp_path: Path):
    skops = pytest.importorskip("skops.io")
    table = people(100).dropna()[["age", "opinion"]].reset_index(drop=True)
    path, other, saved = tmp_path / "a.csv", tmp_path / "b.csv", tmp_path / "model.skops"
    table.to_csv(path, index=False)
    table[::-1].to_csv(other, index=False)
    model = make_pipeline(StandardScaler(), LogisticRegression(tol=1e-10))
    skops.dump(model.fit(table[["age"]], table["opinion"]), saved)
    known = ("--target", "opinion", "--model", saved)
    assert run("index", path, *known, "--index", tmp_path / "index").exit_code == 0
    asked = (*known, "--where", "age < 30", "--row", 7, "--index", tmp_path / "index")
    assert run("remove", path, *asked).exit_code == 0
    found = run("remove", other, *asked)
    assert found.exit_code == 2
    assert "is not an index of the rows of this file" in found.output

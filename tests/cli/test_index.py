"""An index of a user's file, and explanations from it."""

import json
from pathlib import Path

import pytest

from tests.support.files import run


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

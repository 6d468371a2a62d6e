"""Questions about the prediction of one row."""

import json

import numpy as np
import pandas as pd
import pytest

from tests.support.files import run


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

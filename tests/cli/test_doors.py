"""Names and cells of a hostile file steer no terminal and break no table, whichever command shows them."""

import csv
import io
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tests.support.files import people, run
from upweight.runtime.terminal import STEERING

ORDER = "\x1b]52;c;aGk=\x07\x9b2J[/red]"
COMMANDS = (
    ("explain", "--row", "7"),
    ("mislabeled", "--k", "5"),
    ("mismatch", "--by", f"town{ORDER}"),
    ("remove", "--where", "age < 30"),
    ("verify", "--row", "7", "--k", "2"),
)


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    table = people(60).rename(columns={"town": f"town{ORDER}"}).drop(columns="country")
    table[f"town{ORDER}"] = table[f"town{ORDER}"].fillna("south") + ORDER
    table[f"empty{ORDER}"] = np.nan
    table[f"key{ORDER}"] = [f"{i}{ORDER}" for i in range(60)]
    table["opinion"] = table["opinion"] + ORDER
    path = tmp_path / f"people{ORDER.replace('/', '')}.csv"
    table.to_csv(path, index=False)
    return path


@pytest.mark.parametrize("terminal", [False, True])
@pytest.mark.parametrize("command", COMMANDS, ids=lambda words: words[0])
def test_no_command_lets_a_file_steer_the_terminal(hostile, command, terminal, monkeypatch):
    if terminal:  # rich then writes colours and spinners, and nothing else that is not text
        monkeypatch.setenv("FORCE_COLOR", "1")
        monkeypatch.setenv("TERM", "xterm")
    name, *options = command
    for own in ((), ("--id", f"key{ORDER}")):
        options = [f"7{ORDER}" if word == "7" and own else word for word in options]
        answer = run(name, hostile, "--target", "opinion", *own, *options, "--format", "table")
        assert answer.exit_code in (0, 1), answer.output
        said = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", answer.output.replace("\r", ""))
        assert not STEERING.search(said.replace("\t", "")), said
        assert "[/red]" in said


@pytest.mark.parametrize(
    "wrong",
    [
        ("explain", "--row", "0", "--text", "emty"),
        ("explain", "--row", "nobody"),
        ("mismatch", "--by", "toun"),
        ("remove", "--where", "toun == 3"),
        ("explain", "--row", "0", "--id", "opinion"),
    ],
)
def test_no_error_lets_a_file_steer_the_terminal(hostile, wrong):
    name, *options = wrong
    answer = run(name, hostile, "--target", "opinion", *options)
    assert answer.exit_code == 2
    assert answer.stderr.startswith("Error: ") or "Error: " in answer.stderr
    assert not STEERING.search(answer.output)


def test_headings_from_options_run_in_no_spreadsheet(tmp_path):
    table = people(60).rename(columns={"name": "=cmd()", "town": "@town"})
    table["=cmd()"] = [f"\n={i}" for i in range(60)]
    table.to_csv(tmp_path / "people.csv", index=False)
    for words in (("mislabeled", "--id", "=cmd()"), ("mismatch", "--by", "@town")):
        name, option, column = words
        answer = run(name, tmp_path / "people.csv", "--target", "opinion", option, column, "--format", "csv")
        assert answer.exit_code == 0
        lines = list(csv.reader(io.StringIO(answer.stdout)))
        assert lines[0][0] == f"'{column}"
        if option == "--id":
            assert all(line[0].startswith("'\n=") for line in lines[1:])


def test_data_in_a_pipe_are_what_they_are(hostile):
    answer = run("mislabeled", hostile, "--target", "opinion", "--k", "3", "--format", "csv")
    assert pd.read_csv(io.StringIO(answer.stdout))["label"].str.endswith(ORDER).all()

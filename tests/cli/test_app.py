"""The application: bad options get one clear answer, help and version are there."""

import subprocess
import sys
from importlib.metadata import version

import pytest
from typer.main import get_command

from tests.support.files import run
from upweight.cli import app


@pytest.mark.parametrize(
    "arguments",
    [
        ["demo", "--k", "1"],
        ["demo", "--k", "many"],
        ["demo", "--seed", "-1"],
        ["demo", "--colour"],
        ["demo", "--out", __file__],
        ["demo", "--out", f"{__file__}/below"],
        ["explain"],
    ],
)
def test_a_bad_option_is_refused_in_words(arguments):
    result = run(*arguments)
    assert result.exit_code == 2
    assert "Traceback" not in result.output
    assert "Error" in result.output


def test_help_and_version():
    assert "demo" in run("--help").output
    assert "retraining" in run("demo", "--help").output
    assert run("--version").output.strip() == f"upweight {version('upweight')}"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--help"], "retraining"),
        (["--version"], "upweight"),
        (["mislabeled", "--help"], "--fail-over"),
        (["mislabeled"], "Missing"),
        (
            ["mislabeled", "peple.csv", "--target", "opinion"],
            "peple.csv: no such file; did you mean people.csv?",
        ),
        (
            ["explain", "people.csv", "--target", "opinion", "--row", "1", "--test", "more.csv"],
            "more.csv: no such",
        ),
        (
            ["mismatch", "people.csv", "--target", "opinion", "--by", "a", "--model", "m.skops"],
            "m.skops: no such",
        ),
        (["demo", "--k", "1"], "--k"),
    ],
)
def test_help_and_mistakes_wait_for_nothing_heavy(people_file, arguments, words):
    code = (
        "import sys\nfrom upweight.cli import app\ntry:\n    app(sys.argv[1:])\n"
        "except SystemExit:\n    print(*sys.modules)"
    )
    found = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=people_file.parent,
        capture_output=True,
        text=True,
        check=True,
    )
    assert words in found.stdout + found.stderr
    assert not {"torch", "numpy", "scipy", "pandas", "sklearn", "matplotlib"} & {*found.stdout.split()}


@pytest.mark.parametrize("quiet", [False, True])
def test_notes_are_said_in_a_pipe_too_unless_quiet_is_wanted(people_file, quiet):
    asked = ("--target", "opinion", "--row", 7, "--k", 3, *["--quiet"] * quiet)
    result = run("explain", people_file, *asked)
    assert result.exit_code == 0, result.output
    notes = ("country: left out", "fitted: logistic regression", "Positive effect =", "residual")
    assert [note in result.stderr for note in notes] == [not quiet] * len(notes)
    if quiet:
        assert result.stderr == ""
    assert result.stdout.startswith("train row,role")
    assert run("explain", people_file, "--target", "none", "--row", 7, "--quiet").stderr.startswith("Error: ")


def test_every_command_can_be_quiet():
    for command in get_command(app).commands.values():  # type: ignore[attr-defined]
        assert any("--quiet" in option.opts for option in command.params), command.name

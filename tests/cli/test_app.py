"""The application: bad options get one clear answer, help and version are there."""

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

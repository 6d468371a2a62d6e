"""The application: bad options get one clear answer, help and version are there."""

from importlib.metadata import version

import pytest

from tests.support.files import run


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

"""The application: bad options get one clear answer, help and version are there."""

import subprocess
import sys
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

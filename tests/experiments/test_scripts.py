"""`python -m experiments` and `python -m benchmarks`: every script is listed, described and found."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from experiments.commands import run, scripts

ROOT = Path(__file__).parents[2]
FOLDERS = [ROOT / "experiments", ROOT / "benchmarks"]
folders = pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)


@folders
def test_the_readme_names_every_script_and_file_and_nothing_else(folder: Path) -> None:
    text = (folder / "README.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^\| `(\w+)` \|", text, flags=re.M)) == set(scripts(folder))
    files = {str(path.relative_to(folder)) for path in folder.rglob("*.py") if not path.name.startswith("__")}
    described = set(re.findall(r"^\| `([\w/]+\.py)` \|", text, flags=re.M))
    assert described == files - {f"{name}.py" for name in scripts(folder)}
    assert set(re.findall(r"-m (?:experiments|benchmarks) ([a-z]\w*)", text)) <= set(scripts(folder))


@folders
def test_a_script_says_in_a_line_what_it_answers(folder: Path) -> None:
    for name, answers in scripts(folder).items():
        assert len(answers.split()) >= 5, name
        assert f"python -m {folder.name} {name}" in (folder / f"{name}.py").read_text(encoding="utf-8")


@folders
def test_scripts_are_listed(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(folder, [])
    listed = capsys.readouterr().out
    assert all(name in listed and answers in listed for name, answers in scripts(folder).items())


def test_a_wrong_name_is_told_the_right_ones(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        run(FOLDERS[0], ["fig7"])
    assert stopped.value.code == 2
    assert "no 'fig7' here; there are by_refitting, " in capsys.readouterr().err


def test_the_command_takes_a_name_and_its_options() -> None:
    command = [sys.executable, "-m", "experiments", "mislabel_mnist", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.startswith("usage: python -m experiments mislabel_mnist")
    assert "--small" in done.stdout

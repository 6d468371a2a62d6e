"""The README and the documentation do what they say: each page's blocks run, from top to bottom, as one session."""

import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

import upweight
from upweight.cli import app

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```(python|console)\n(.*?)^```", flags=re.M | re.S)


def blocks(page: Path) -> list[tuple[str, str]]:
    return BLOCK.findall(page.read_text(encoding="utf-8"))


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page)], ids=lambda page: page.stem)
def test_a_page_runs(page: Path, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    session: dict[str, object] = {}
    for number, (kind, block) in enumerate(blocks(page), start=1):
        if kind == "python":
            exec(compile(block, f"{page.name}, block {number}", "exec"), session)
            continue
        for line in block.splitlines():
            name, *words = shlex.split(line, comments=True)
            assert name == "upweight"
            result = CliRunner().invoke(app, words)
            assert result.exit_code == 0, f"{line}: {result.output}"
    assert "print(" not in page.read_text(encoding="utf-8") or capsys.readouterr().out


def test_most_pages_have_something_to_run():
    assert len([page for page in PAGES if blocks(page)]) >= 7


def test_the_reference_has_every_public_name():
    listed = set(re.findall(r"^::: upweight\.(\w+)$", (ROOT / "docs" / "api.md").read_text(), flags=re.M))
    assert set(upweight.__all__) <= listed

"""The README and the documentation do what they say: each page's blocks run, from top to bottom, as one session."""

import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

import upweight
from upweight.cli import app

from .structure import Tree, returned_types
from .test_imports import PACKAGE, read

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


MACHINERY = {"linalg", "data", "linear", "network", "curvature"}
"""Packages whose types, but for the names of `upweight` itself, pass between packages and answer nobody."""


def reference() -> set[str]:
    """What docs/api.md describes."""
    return set(re.findall(r"^::: (upweight[\w.]*)$", (ROOT / "docs" / "api.md").read_text(), flags=re.M))


def undescribed(tree: Tree, listed: set[str]) -> list[str]:
    """The types that a user gets from something public, but that nothing in `listed` describes."""
    described = {tree.resolve(*name.rsplit(".", 1)) for name in listed}
    roots = [path for path in described if path in tree.classes or path in tree.functions]
    roots += [d.path for d in tree.definitions if d.public and d.module in listed]
    return [
        f"{path}, which {giver} gives"
        for path, giver in returned_types(tree, roots).items()
        if path not in described
        and tree.classes[path].module not in listed
        and path.split(".")[1] not in MACHINERY
    ]


def test_the_reference_has_every_public_name():
    tree = Tree(read(PACKAGE))
    described = {tree.resolve(*name.rsplit(".", 1)) for name in reference()}
    assert {tree.resolve("upweight", name) for name in upweight.__all__} <= described
    # A function in a module of its own name is described by its whole path: by less, mkdocstrings finds the module.
    assert {path for path in described if path.split(".")[-2:-1] == path.split(".")[-1:]} <= reference()


def test_the_reference_has_every_returned_type():
    assert undescribed(Tree(read(PACKAGE)), reference()) == []


def test_a_returned_type_that_is_not_described_is_seen():
    tree = Tree(
        {
            "upweight.__init__": "from .a import ask, Asker",
            "upweight.a": """
from .b import Answer, Deep, Known
from .linalg.c import Factor
class Base:
    def inherited(self) -> dict[str, Deep]: ...
class Asker(Base):
    known: Known
    @property
    def factor(self) -> Factor: ...
    def _inner(self) -> Hidden: ...
def ask() -> Answer | None: ...
class Hidden: ...
""",
            "upweight.b": """
class Status: ...
class Answer:
    known: Known
    _seen: Status
class Deep:
    def __call__(self) -> list[Answer]: ...
class Known: ...
""",
            "upweight.linalg.c": "class Factor: ...",
        }
    )
    listed = {"upweight.ask", "upweight.Asker", "upweight.b.Known"}
    assert sorted(undescribed(tree, listed)) == [
        "upweight.b.Answer, which upweight.a.ask gives",
        "upweight.b.Deep, which upweight.a.Base.inherited gives",
    ]
    assert undescribed(tree, listed | {"upweight.b"}) == []

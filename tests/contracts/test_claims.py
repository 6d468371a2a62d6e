"""Claims that are cited by number (R1, B2) stand in docs/claims.md, and the files that our pages name are there."""

import ast
import re
import tokenize
from collections.abc import Iterator
from io import StringIO
from pathlib import Path

import pytest

from .test_imports import PACKAGE

ROOT = Path(__file__).parents[2]
CLAIMS = ROOT / "docs" / "claims.md"
FOLDERS = ("src", "tests", "experiments", "benchmarks")
IN_WORDS = re.compile(r"\b[RB][1-9]\d?\b")
IN_A_NAME = re.compile(r"(?<=_)[rb][1-9]\d?(?=_)")
PLACE = re.compile(rf"`((?:{'|'.join(FOLDERS)})/[\w/.]+\.py)(?:::([\w.]+))?`")


def cited(source: str) -> set[str]:
    """The claims that comments, strings and the names of tests of a Python file cite."""
    found: set[str] = set()
    for token in tokenize.generate_tokens(StringIO(source).readline):
        if token.type in (tokenize.COMMENT, tokenize.STRING):
            found |= set(IN_WORDS.findall(token.string))
        elif token.type == tokenize.NAME and token.string.startswith("test_"):
            found |= {claim.upper() for claim in IN_A_NAME.findall(token.string)}
    return found


def defined(node: ast.AST, path: str = "") -> Iterator[str]:
    """The functions and classes of a module by their names in it, `Class.method` for methods."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (ast.FunctionDef, ast.ClassDef)):
            yield f"{path}{child.name}"
            yield from defined(child, f"{path}{child.name}.")


def missing(text: str, root: Path = ROOT) -> list[str]:
    """The places named in `text` that are not there: a file, or a name that it does not define."""
    found = []
    for file, name in PLACE.findall(text):
        path = root / file
        if not path.exists():
            found.append(file)
        elif name and name not in defined(ast.parse(path.read_text(encoding="utf-8"))):
            found.append(f"{file}::{name}")
    return found


def parts() -> dict[str, str]:
    """The text of each claim by its number."""
    pieces = re.split(r"^### ([RB]\d+)\. ", CLAIMS.read_text(encoding="utf-8"), flags=re.M)
    assert len(pieces[1::2]) == len(set(pieces[1::2])), "a claim stands there twice"
    return dict(zip(pieces[1::2], pieces[2::2], strict=True))


def test_cited_claims_are_described():
    known = parts()
    files = [file for folder in FOLDERS for file in sorted((ROOT / folder).rglob("*.py"))]
    pages = [page for page in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")] if page != CLAIMS]
    found = {file: cited(file.read_text(encoding="utf-8")) for file in files}
    found |= {page: set(IN_WORDS.findall(page.read_text(encoding="utf-8"))) for page in pages}
    assert {str(file): unknown for file, claims in found.items() if (unknown := claims - known.keys())} == {}


def test_every_claim_says_where_it_is_implemented_and_what_judges_it():
    known = parts()
    assert list(known) == [*(f"R{i}" for i in range(1, 28)), *(f"B{i}" for i in range(1, 7))]
    for claim, text in known.items():
        code, _, judge = text.partition("\n- Judge: ")
        code = code.partition("\n- Code: ")[2]
        assert [file for file, _ in PLACE.findall(code) if file.startswith("src/")], claim
        assert PLACE.findall(judge) or "docstring" in judge, claim


@pytest.mark.parametrize("page", [CLAIMS, ROOT / "CONTRIBUTING.md"], ids=lambda page: page.name)
def test_the_places_of_claims_are_there(page):
    assert missing(page.read_text(encoding="utf-8")) == []


def test_the_modules_of_design_decisions_are_there():
    named = set(re.findall(r"`([\w/]+\.py)`", (ROOT / "docs" / "design.md").read_text(encoding="utf-8")))
    assert len(named) > 10
    assert {name for name in named if not any((home / name).exists() for home in (PACKAGE, ROOT))} == set()


def test_what_is_cited_is_seen():
    source = (
        '"""Eq. 2 (R2)."""\nR7 = 1  # B2 and R100, X1\ndef test_r4_r5_of_change(): ...\ndef run_r9_(): ...\n'
    )
    assert cited(source) == {"R2", "B2", "R4", "R5"}


def test_a_missing_place_is_seen(tmp_path):
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "a.py").write_text("class A:\n    def f(self): ...\n")
    text = "`src/a.py` `src/a.py::A.f` `src/a.py::A.g` `src/b.py::A`"
    assert missing(text, tmp_path) == ["src/a.py::A.g", "src/b.py"]

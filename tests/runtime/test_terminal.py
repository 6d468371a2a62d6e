"""Nothing of a user's data steers a terminal: there is one place where text leaves for it."""

import ast
import io
import re
from pathlib import Path

import pandas as pd
import pytest
import torch

import upweight as uw
from upweight.runtime.terminal import STEERING, console, give, plain, say, styled
from upweight.tables import FileError, check_column

SOURCE = Path(uw.__file__).parent
STEERED = "\x1b]0;title\x07\x1b]52;c;aGk=\x07\x9b2J\u202egnp\r\b[/red]"


@pytest.mark.parametrize("character", [*"\x00\x07\x08\t\r\x1b\x7f\x85\x9b\x9d\u2028\u202e\u2066\ud800\ufeff"])
def test_what_steers_becomes_a_space(character):
    assert plain(f"a{character}b") == "a b"


def test_what_is_shown_stays():
    words = "Łódź 客户\n😀 \u0645\u06cc\u200c\u062e\u0648 [bold] é — \u2011 \xa0"
    assert plain(words) == words
    assert (plain(3), plain(ValueError("x\x1b"))) == ("3", "x ")


def test_only_one_module_writes_to_a_terminal():
    """Whoever prints elsewhere may print a user's column name: `say`, `give`, `tell` and `console` are the ways."""
    found = []
    for file in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            called = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
            if re.fullmatch(
                r"print|pprint|(typer|click)\.s?echo|.*Console|sys\.std(out|err)\.write.*", called
            ):
                found.append(f"{file.relative_to(SOURCE)}:{node.lineno}")  # type: ignore[attr-defined]
    assert {place.partition(":")[0] for place in found} == {"runtime/terminal.py"}, found


def test_words_are_cleaned_always_and_data_where_they_are_shown(capsys, monkeypatch: pytest.MonkeyPatch):
    say(STEERED)
    say(STEERED, err=True)
    said = capsys.readouterr()
    assert not STEERING.search(said.out + said.err)
    give(STEERED)
    assert capsys.readouterr().out == STEERED
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    give(STEERED)
    assert not STEERING.search(capsys.readouterr().out)


def test_brackets_are_no_markup(monkeypatch: pytest.MonkeyPatch):
    out = io.StringIO()
    monkeypatch.setattr("sys.stdout", out)
    console().print(styled("[/red]\n:smile:"), "[/red] :smile:")
    assert out.getvalue() == "[/red] :smile: [/red] :smile:\n"


def test_errors_about_files_are_clean():
    with pytest.raises(FileError) as raised:
        check_column(pd.DataFrame({STEERED: [1]}), "red")
    assert not STEERING.search(str(raised.value))
    assert "[/red]" in str(raised.value)


def test_answers_are_clean_in_a_session_of_python():
    X = pd.DataFrame(torch.randn(20, 2, generator=torch.Generator().manual_seed(0)).numpy())
    X.columns, X.index = pd.Index([STEERED, "b"]), pd.Index([f"{i}{STEERED}" for i in range(20)])
    y = pd.Series((X["b"] > 0).map({True: STEERED, False: "no"}))
    sklearn = pytest.importorskip("sklearn.linear_model")
    influence = uw.Influence(uw.from_estimator(sklearn.LogisticRegression(tol=1e-10).fit(X, y), X, y))
    asked = (X.iloc[:1], y.iloc[:1])
    for answer in (
        influence.on_loss(asked), uw.explain(influence, asked), uw.mislabeled(influence),
        influence.of_removal({STEERED: torch.arange(3)}, asked), uw.verify(influence, asked, k=2),
        uw.mismatch(influence, asked, by=y),
    ):  # fmt: skip
        assert not STEERING.search(repr(answer).replace("\t", "")), type(answer)
        assert not STEERING.search(str(answer)), type(answer)

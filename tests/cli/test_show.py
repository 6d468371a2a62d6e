"""Tables as people and programs get them."""

import io
import json
from pathlib import Path

import pandas as pd
import pytest
from rich.console import Console

from upweight.cli.show import WIDEST, Format, for_people, show

TABLE = pd.DataFrame(
    {"effect on the loss": [0.123456789, -2.0], "size": [3, 4], "said": ["=1+1", "plain"]},
    index=pd.Index(["a", "b"], name="row"),
)


def shown(table: pd.DataFrame) -> str:
    console = Console(file=io.StringIO(), width=200)
    console.print(for_people(table, "title"))
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_cells_cannot_steer_the_terminal():
    line = pd.DataFrame({"effect": [0.5], "loss": [0.5], "said": ["[bold]\x1b[31mred" + "x" * 100]})
    words_shown = shown(line)
    assert "\x1b" not in words_shown
    for words in ("+0.5", " 0.5", "[bold] [31mred", "…"):
        assert words in words_shown


@pytest.mark.parametrize("length", [WIDEST - 1, WIDEST, WIDEST + 1])
def test_long_cells_are_cut_where_they_do_not_fit(length: int):
    words = shown(pd.DataFrame({"said": ["q" * length]}))
    assert words.count("q") == (length if length <= WIDEST else WIDEST - 1)
    assert ("…" in words) is (length > WIDEST)


def test_effects_have_their_sign_and_four_digits():
    words = shown(TABLE)
    for part in ("+0.1235", "-2", " 3 ", "=1+1", "title"):
        assert part in words
    assert "+3" not in words


@pytest.mark.parametrize("suffix", [".json", ".csv", ".parquet", ".JSON"])
def test_a_file_is_of_the_kind_that_its_suffix_names(suffix: str, tmp_path: Path):
    path = tmp_path / f"out{suffix}"
    show(TABLE, None, path, "title")
    if suffix.lower() == ".json":
        lines = json.loads(path.read_text())
        assert lines[0] == {"row": "a", "effect on the loss": 0.123456789, "size": 3, "said": "=1+1"}
    elif suffix == ".csv":
        found = pd.read_csv(path, index_col="row")
        assert found["said"].tolist() == ["'=1+1", "plain"]  # no spreadsheet runs it
        assert found["effect on the loss"].tolist() == TABLE["effect on the loss"].tolist()
    else:
        pd.testing.assert_frame_equal(pd.read_parquet(path), TABLE)


@pytest.mark.parametrize("format", [Format.json, Format.csv, Format.table])
def test_the_format_that_was_asked_for_goes_before_the_suffix(format: Format, tmp_path: Path):
    path = tmp_path / "out.txt"
    show(TABLE, format, path, "title")
    text = path.read_text()
    begins = {Format.json: "[", Format.csv: "row,effect", Format.table: "    "}[format]
    assert text.startswith(begins)
    assert text.endswith("\n")


def test_a_pipe_gets_csv_and_a_terminal_a_table(capsys: pytest.CaptureFixture[str], monkeypatch):
    show(TABLE, None, None, "title")
    piped = capsys.readouterr().out
    assert piped.startswith("row,effect on the loss,size,said\n")
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    show(TABLE, None, None, "title")
    assert "title" in capsys.readouterr().out


def test_what_cannot_be_written_is_said(tmp_path: Path):
    with pytest.raises(ValueError, match=r"its suffix names no format; use \.csv, \.json or \.parquet"):
        show(TABLE, None, tmp_path / "out.xlsx", "title")
    with pytest.raises(ValueError, match="--format parquet needs --out FILE"):
        show(TABLE, Format.parquet, None, "title")
    assert list(tmp_path.iterdir()) == []


def test_of_several_processes_the_first_one_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("upweight.cli.show.rank", lambda: 1)
    show(TABLE, None, tmp_path / "out.csv", "title")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ValueError, match="suffix"):  # what is wrong is said by all
        show(TABLE, None, tmp_path / "out.xlsx", "title")

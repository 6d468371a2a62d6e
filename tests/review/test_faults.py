"""What can go wrong while a page is open: the file changes, the journal fails, a button is pressed twice."""

import csv
import io
import os
import re
import shutil
import sqlite3
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pandas as pd
import pytest
from starlette.testclient import TestClient

from tests.support.reviews import client, decide, labelled, session_of, settled
from upweight.review.export import corrected_file
from upweight.review.journal import Decision, Journal, JournalError
from upweight.review.pages import disposition, keys_of
from upweight.review.session import Session
from upweight.tables import FileError, FittedFile


def keys_shown(page: str) -> dict[str, str]:
    """The label that each digit gives on a page; the row's own is kept."""
    shown = re.findall(r'data-key="(\d)">(\S+) ', page)
    return dict(shown)


@pytest.mark.parametrize("names", [("1", "2", "3"), ("5", "4", "1"), ("ant", "bee", "cow")])
def test_a_key_is_one_label_for_all_rows_and_a_digits_own(tmp_path, names):
    table = labelled(classes=3)
    table["kind"] = table["kind"].map(dict(zip(("ant", "bee", "cow"), names, strict=True)))
    table.to_csv(tmp_path / "kinds.csv", index=False)
    session = session_of(FittedFile.of(tmp_path / "kinds.csv", "kind"))
    browser = client(session)
    expected = {name: name for name in names} if names[0].isdigit() else {"1": "ant", "2": "bee", "3": "cow"}
    for row in range(6):
        assert keys_shown(browser.get(f"/?row={row}").text) == expected
    for own in names:  # also where two labels are left, and where the row was given another
        row = session.own_labels.astype(str).tolist().index(own)
        other = next(name for name in names if name != own)
        assert decide(browser, row, "relabel", other) == 200
        page = browser.get(f"/?row={row}").text
        assert keys_shown(page) == expected
        assert f"Keep {own} " in page
        assert f"Decided: relabel as {other}" in page


def test_keys_of_odd_labels():
    assert keys_of(["0", "1", "10"]) == {"0": "0", "1": "1"}
    assert keys_of(["1.0", "2.0", "-1.0"]) == {"1.0": "1", "2.0": "2"}
    assert keys_of(["3", "cat"]) == {"3": "3"}
    assert keys_of(["1.5", "2.5"]) == {"1.5": "1", "2.5": "2"}
    assert list(keys_of([f"class {i}" for i in range(12)]).values()) == list("123456789")


@pytest.fixture
def own_file(file: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(file, tmp_path))


def test_nothing_is_decided_or_exported_after_the_file_has_changed(own_file):
    session = session_of(FittedFile.of(own_file, "kind"))
    browser = client(session)
    assert decide(browser, 1, "drop") == 200
    was = own_file.read_bytes()
    pd.read_csv(own_file).sort_values("a").to_csv(own_file, index=False)
    for answer in (
        browser.get("/export"),
        browser.post("/decide", data={"row": 2, "action": "drop"}),
        browser.post("/undo"),
    ):
        assert answer.status_code == 409
        assert "kinds.csv has changed since the review began" in answer.text
    assert list(session.journal.decisions()) == [1]
    own_file.unlink()
    assert "put it back" in browser.get("/export").text
    assert browser.post("/undo").status_code == 409
    own_file.write_bytes(was)
    assert decide(browser, 2, "drop") == 200
    assert len(pd.read_csv(io.BytesIO(browser.get("/export").content))) == 88


@pytest.mark.parametrize("ending", ["\n", "\r\n"])
def test_cells_with_line_breaks_are_the_same_cells_when_exported(tmp_path, ending):
    table = labelled()
    table["note"] = [("a\rb", "a\nb", "a\r\nb", 'say "x", y', "plain")[i % 5] + f" {i}" for i in range(90)]
    text = table.to_csv(index=False, lineterminator=ending, quoting=1)
    file = tmp_path / "kinds.csv"
    file.write_bytes(text.encode())
    session = session_of(FittedFile.of(file, "kind"))
    session.decide(Decision(3, "drop"))
    content = corrected_file(session)[1]

    def cells(content: bytes) -> pd.DataFrame:
        return pd.read_csv(io.BytesIO(content), dtype=str, na_filter=False)

    pd.testing.assert_frame_equal(
        cells(content), cells(file.read_bytes()).drop(index=3).reset_index(drop=True)
    )
    assert content.count(ending.encode()) >= 90


def test_an_export_that_reads_otherwise_is_not_given_out(fitted, monkeypatch: pytest.MonkeyPatch):
    session = session_of(fitted)
    session.decide(Decision(7, "relabel", "ant" if fitted.raw["kind"][7] == "bee" else "bee"))
    write = csv.writer

    class Worse:
        def __init__(self, out: io.StringIO, **options: Any) -> None:
            self.writer = write(out, **options)

        def writerow(self, cells: list[str]) -> None:
            self.writer.writerow([cell.replace("number 7", "number 8") for cell in cells])

    monkeypatch.setattr(csv, "writer", Worse)
    with pytest.raises(FileError, match="not given out"):
        corrected_file(session)
    assert client(session).get("/export").status_code == 409


def test_headers_without_names_and_marks_of_the_encoding_stay(tmp_path):
    file = tmp_path / "kinds.csv"
    table = labelled().drop(columns="note")
    table.to_csv(file, index_label="", encoding="utf-8-sig")
    session = session_of(FittedFile.of(file, "kind"))
    assert corrected_file(session)[1] == file.read_bytes()


@pytest.mark.skipif(os.name == "nt", reason="names of files are characters there")
def test_a_file_whose_name_is_in_another_encoding_is_reviewed(file, tmp_path):
    own = Path(shutil.copy(file, tmp_path / os.fsdecode(b"caf\xe9.csv")))
    fitted = FittedFile.of(own, "kind")
    session = session_of(fitted, Journal(own.with_suffix(".review"), own.name, "kind", fitted.hash))
    browser = client(session)
    assert browser.get("/").status_code == browser.get("/export").status_code == 200
    own.unlink()
    assert browser.get("/export").status_code == 409


@pytest.mark.parametrize("name", ["Łódź.csv", "客户.csv", 'say "x"; \\.csv', "100% 😀.csv"])
def test_files_of_any_name_are_exported_under_it(file, tmp_path, name):
    own = Path(shutil.copy(file, tmp_path / name))
    answer = client(session_of(FittedFile.of(own, "kind"))).get("/export")
    assert answer.status_code == 200
    said = answer.headers["content-disposition"]
    assert re.fullmatch(
        r"attachment; filename=\"[^\"\\]+\"; filename\*=UTF-8''[A-Za-z0-9%._~-]+", said, re.ASCII
    )
    assert unquote(said.partition("UTF-8''")[2]) == f"{own.stem}.corrected.csv"


def test_the_name_of_a_file_ends_no_header():
    assert "\n" not in disposition('a"\r\nSet-Cookie: b.csv')
    assert disposition('a"b.csv').startswith('attachment; filename="a_b.csv";')


def test_the_model_follows_again_after_all_was_dropped_and_undone(fitted):
    session = session_of(fitted)
    session.start()
    browser = client(session)
    for row in range(90):
        session.journal.add(Decision(row, "drop"))
    session.decide(Decision(0, "keep"))
    session.decide(Decision(0, "drop"))
    settled(session)
    assert "cannot be fitted" in browser.get("/").text
    while session.undo():
        pass
    settled(session)
    state = browser.get("/state").json()
    assert (state["current"], state["trouble"], state["accuracy"]) == (True, "", state["first"])
    assert decide(browser, 3, "drop") == 200
    settled(session)
    assert browser.get("/state").json()["current"]


def test_the_model_follows_on_after_something_unforeseen(fitted, monkeypatch: pytest.MonkeyPatch):
    session = session_of(fitted)
    session.start()
    fit = Session._fit_to

    def broken(*_: object) -> None:
        raise ZeroDivisionError("of all things")

    monkeypatch.setattr(Session, "_fit_to", broken)
    session.decide(Decision(0, "drop"))
    settled(session)
    assert "of all things" in session.trouble
    monkeypatch.setattr(Session, "_fit_to", fit)
    session.decide(Decision(1, "drop"))
    settled(session)
    assert session.current


def test_what_is_unforeseen_is_said(fitted, monkeypatch: pytest.MonkeyPatch):
    session = session_of(fitted)
    entered = client(session)
    browser = TestClient(
        entered.app, base_url=str(entered.base_url), cookies=entered.cookies, raise_server_exceptions=False
    )
    monkeypatch.setattr(Session, "evidence", lambda *_: 1 / 0)
    answer = browser.get("/")
    assert answer.status_code == 500
    assert "could not be done (ZeroDivisionError" in answer.text
    assert answer.headers["cache-control"] == "no-store"


def with_journal(own_file: Path) -> tuple[Session, Path]:
    path = own_file.with_suffix(".review")
    fitted = FittedFile.of(own_file, "kind")
    return session_of(fitted, Journal(path, own_file.name, "kind", fitted.hash)), path


def stopped(path: Path, change: str, words: str) -> None:
    """The journal refuses a kind of change from here on, as SQLite says it of a full or a read-only file."""
    with sqlite3.connect(path) as other:
        other.execute(f"CREATE TRIGGER stop BEFORE {change} BEGIN SELECT RAISE(ABORT, '{words}'); END")
    other.close()


def test_a_full_journal_gives_a_sentence_and_decisions_stay(own_file):
    session, path = with_journal(own_file)
    browser = client(session)
    assert decide(browser, 1, "drop") == 200
    stopped(path, "INSERT ON decision", "database or disk is full")
    answer = browser.post("/decide", data={"row": 2, "action": "drop"})
    assert answer.status_code == 503
    assert "database or disk is full" in answer.text
    assert "nothing was changed" in answer.text
    assert list(session.journal.decisions()) == [1]
    assert browser.get("/").status_code == browser.get("/export").status_code == 200
    with sqlite3.connect(path) as other:
        other.execute("DROP TRIGGER stop")
    assert decide(browser, 2, "drop") == 200


def test_a_locked_journal_gives_a_sentence(own_file, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("upweight.review.journal.PATIENCE", 0.01)
    session, path = with_journal(own_file)
    browser = client(session)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    answer = browser.post("/decide", data={"row": 2, "action": "drop"})
    assert (answer.status_code, "database is locked" in answer.text) == (503, True)
    other.execute("ROLLBACK")
    assert decide(browser, 2, "drop") == 200


def test_a_journal_that_cannot_be_written_is_refused_at_the_start(own_file):
    session, path = with_journal(own_file)
    stopped(path, "UPDATE ON subject", "attempt to write a readonly database")
    with pytest.raises(JournalError, match="readonly database"):
        session.start()


def test_a_deleted_journal_takes_no_decisions_and_those_before_can_be_exported(own_file):
    session, path = with_journal(own_file)
    browser = client(session)
    assert decide(browser, 1, "drop") == 200
    kept = path.with_suffix(".kept")
    path.rename(kept)
    for answer in (browser.post("/decide", data={"row": 2, "action": "drop"}), browser.post("/undo")):
        assert (answer.status_code, "was moved or deleted" in answer.text) == (503, True)
    assert len(pd.read_csv(io.BytesIO(browser.get("/export").content))) == 89
    assert browser.get("/").status_code == 200
    kept.rename(path)
    assert decide(browser, 2, "drop") == 200


def test_decisions_of_another_page_count_too(own_file):
    (first, _), (second, _) = with_journal(own_file), with_journal(own_file)
    first.decide(Decision(1, "drop"))
    assert list(second.journal.decisions()) == [1]
    second.decide(Decision(2, "keep"))
    assert list(first.journal.decisions()) == [1, 2]
    assert first.undo() == Decision(2, "keep")
    assert list(second.journal.decisions()) == [1]


def test_a_button_pressed_twice_is_pressed_once(fitted):
    session = session_of(fitted)
    browser = client(session)
    for _ in range(2):
        assert decide(browser, 1, "drop") == 200
    assert decide(browser, 2, "keep") == 200
    newest = browser.get("/state").json()["newest"]
    for _ in range(2):
        assert browser.post("/undo", data={"newest": newest}).status_code == 200
    assert session.journal.decisions() == {1: Decision(1, "drop")}
    session.undo()
    assert not session.journal.decisions()
    for decision in (Decision(1, "drop"), Decision(1, "keep"), Decision(1, "drop")):
        session.decide(decision)
    session.undo()
    assert session.journal.decisions() == {1: Decision(1, "keep")}


def test_skipped_rows_take_turns(fitted):
    session = session_of(fitted)
    for row in range(90):
        session.decide(Decision(row, "skip"))
    assert list(session.waiting()) == list(range(90))
    session.decide(Decision(0, "skip"))
    assert next(session.waiting()) == 1


ODD = ("²", "٣", "-1", "1_0", " 5", "9" * 5000, "%00", "%ff", "1e3", "")


@pytest.mark.parametrize("word", ODD)
def test_odd_addresses_are_no_faults_of_the_server(fitted, word):
    browser = client(session_of(fitted))
    for path in (f"/?row={word}", f"/list?page={word}", f"/state?{word}", f"/?token={word}"):
        assert browser.get(path).status_code in (200, 403)
    for path in (f"/{word}x", f"/static/{word}", f"/static/{word}/x", f"/list/{word}y"):
        assert browser.get(path).status_code in (400, 404)
    assert browser.get("/decide").status_code == 405
    answer = browser.post("/decide", data={"row": word, "action": "drop"})
    assert answer.status_code == 400
    assert browser.post("/undo", data={"newest": word}).status_code == 200
    assert browser.post("/decide", content=b"row=\xff\xfe&action=\xff").status_code == 400


@pytest.mark.parametrize("id", [None, "name"])
def test_rows_without_a_label_stay_where_they_are(tmp_path, id):
    table = labelled().assign(name=[f"row {i}" for i in range(90)])
    table.loc[[0, 5], "kind"] = ""
    table.to_csv(tmp_path / "kinds.csv", index=False)
    fitted = FittedFile.of(tmp_path / "kinds.csv", "kind", id=id, drop_missing=True)
    session = session_of(fitted)
    assert session.shown(3).texts["note"] == "said <b>something</b> number 4"
    was = session.own_labels[3]
    session.decide(Decision(3, "relabel", "ant" if was == "bee" else "bee"))
    session.decide(Decision(4, "drop"))
    found = pd.read_csv(io.BytesIO(corrected_file(session)[1]), keep_default_na=False)
    expected = table.assign(kind=table["kind"].where(table.index != 4, "ant" if was == "bee" else "bee"))
    expected = expected.drop(index=6).reset_index(drop=True)
    assert found["kind"].tolist() == expected["kind"].tolist()
    assert found["name"].tolist() == expected["name"].tolist()
    path = tmp_path / "decisions"
    Journal(path, "kinds.csv", "kind", fitted.hash)
    with pytest.raises(FileError, match="or other rows of it are left out"):
        Journal(path, "kinds.csv", "kind", fitted.file.hash)


def test_a_file_that_changed_while_it_was_fitted_is_noticed(own_file, monkeypatch: pytest.MonkeyPatch):
    fitted = FittedFile.of(own_file, "kind")
    pd.read_csv(own_file).sort_values("a").to_csv(own_file, index=False)
    with pytest.raises(FileError, match="has changed since the review began"):
        session_of(fitted).decide(Decision(1, "drop"))

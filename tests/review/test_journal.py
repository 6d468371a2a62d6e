"""The journal: decisions survive, the newest counts, and it belongs to one file."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import xxhash

from upweight.review.journal import Decision, Journal
from upweight.runtime.paths import file_hash
from upweight.tables import FileError


def test_the_newest_decision_counts_and_undo_brings_back_the_one_before(tmp_path):
    path = tmp_path / "decisions"
    journal = Journal(path, "f", "y", "h")
    for decision in (Decision(3, "keep"), Decision(4, "drop"), Decision(3, "relabel", "x")):
        journal.add(decision)
    assert Journal(path, "f", "y", "h").decisions() == {
        3: Decision(3, "relabel", "x"),
        4: Decision(4, "drop"),
    }
    assert journal.undo() == Decision(3, "relabel", "x")
    assert journal.decisions()[3] == Decision(3, "keep")
    assert [journal.undo(), journal.undo(), journal.undo()] == [
        Decision(4, "drop"),
        Decision(3, "keep"),
        None,
    ]
    with pytest.raises(ValueError, match="keep, relabel, drop, skip"):
        Decision(1, "burn")
    for action, label in (("relabel", None), ("keep", "x")):
        with pytest.raises(ValueError, match="a label goes with relabel"):
            Decision(1, action, label)


def test_any_thread_may_decide(tmp_path):
    """The server answers in threads of its own."""
    journal = Journal(tmp_path / "decisions", "f", "y", "h")
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda row: journal.add(Decision(row, "drop")), range(40)))
        assert len(pool.submit(journal.decisions).result()) == 40
    taken = journal.undo()
    assert taken is not None
    assert set(range(40)) - set(journal.decisions()) == {taken.row}


def test_a_journal_of_something_else_is_refused(tmp_path):
    path = tmp_path / "decisions"
    Journal(path, "train.csv", "y", "hash")
    for other in ("x", "z"):
        with pytest.raises(FileError, match=f"about the target 'y', not '{other}'"):
            Journal(path, "train.csv", other, "hash")
    for other in ("another", "other"):
        with pytest.raises(FileError, match=r"another state of train.csv"):
            Journal(path, "train.csv", "y", other)
    (tmp_path / "photo").write_bytes(b"no database, but long enough to be looked at" * 50)
    with pytest.raises(FileError, match="cannot be used as a journal"):
        Journal(tmp_path / "photo", "train.csv", "y", "hash")


def test_decisions_are_read_once_for_a_change(tmp_path):
    """A page asks for them a dozen times, and there may be many thousands."""
    journal, other = (Journal(tmp_path / "decisions", "f", "y", "h") for _ in range(2))
    journal.add(Decision(1, "drop"))
    before = journal.now()
    assert journal.now() is before
    other.add(Decision(2, "drop"))
    after = journal.now()
    assert list(after.rows) == [1, 2]
    assert list(before.rows) == [1]  # whoever looks at it meanwhile
    assert after.number != before.number
    assert after.counts == {"keep": 0, "relabel": 0, "drop": 2, "skip": 0}


@pytest.mark.parametrize("part", [None, 4])
def test_the_hash_of_a_file_is_that_of_all_its_bytes(tmp_path, part, monkeypatch: pytest.MonkeyPatch):
    if part is not None:
        monkeypatch.setattr("upweight.runtime.paths.PART", part)
    path = tmp_path / "file.csv"
    for words in (b"", b"abcdefghij", b"Xbcdefghij", b"abcdXfghij", b"abcdefghiX", b"abcdefghijk"):
        path.write_bytes(words)
        assert file_hash(path) == xxhash.xxh3_128(words).hexdigest()

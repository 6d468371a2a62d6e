"""Decisions on disk: a small SQLite file, written before a decision is answered."""

from __future__ import annotations

import sqlite3
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import cached_property
from pathlib import Path

from ..runtime.terminal import plain
from ..tables.reading import FileError

ACTIONS = ("keep", "relabel", "drop", "skip")
"""What can be decided about a row."""
PATIENCE = 5.0
"""Seconds for which a journal is waited for that another program is writing to."""

SCHEMA = """
CREATE TABLE IF NOT EXISTS subject (file TEXT, target TEXT, hash TEXT);
CREATE TABLE IF NOT EXISTS decision (
    number INTEGER PRIMARY KEY,
    row INTEGER NOT NULL,
    action TEXT NOT NULL,
    label TEXT,
    time TEXT NOT NULL,
    undone INTEGER NOT NULL DEFAULT 0
);
"""


@dataclass(frozen=True)
class Decision:
    """What was decided about a row.

    Attributes:
        row: The row's place in the file, counted from 0.
        action: One of "keep", "relabel", "drop" and "skip".
        label: The label that the row was given; None for anything but "relabel".

    Raises:
        ValueError: The action is unknown, or a label is missing or out of place.
    """

    row: int
    action: str
    label: str | None = None

    def __post_init__(self) -> None:
        if self.action not in ACTIONS:
            raise ValueError(f"action must be one of {', '.join(ACTIONS)}, got {self.action!r}")
        if (self.action == "relabel") != (self.label is not None):
            raise ValueError(
                f"a label goes with relabel, and with nothing else: {self.action!r}, {self.label!r}"
            )


class JournalError(OSError):
    """A journal cannot be read or written now; the message says why, and what to do.

    The disk is full, say, or another program holds or has removed the file. What was decided before is not lost.
    """


@dataclass(frozen=True)
class Decided:
    """The decisions of a journal at one moment.

    Attributes:
        number: Tells two moments apart: counts the changes since the journal was opened; 0 where nothing is decided.
        newest: The number of the newest decision that was not undone, in the order in which they were taken; 0: none.
        rows: What holds for each decided row, by its place; the row decided last stands last.
    """

    number: int
    newest: int
    rows: dict[int, Decision]

    @cached_property
    def counts(self) -> dict[str, int]:
        """How many rows have each kind of decision."""
        found = Counter(decision.action for decision in self.rows.values())
        return {action: found[action] for action in ACTIONS}


class Journal:
    """The decisions about one file and target, oldest first; undone ones stay in the file, marked.

    Args:
        path: The journal itself, which is made if it is not there; ":memory:" keeps it nowhere.
        file: The name of the file that is reviewed.
        target: The column whose labels are reviewed.
        hash: What tells the state of the file and its rows (`FittedFile.hash`).

    Raises:
        FileError: The journal belongs to another target or another state of the file, or is no journal.

    >>> journal = Journal(":memory:", "train.csv", "label", "hash")
    >>> journal.add(Decision(7, "relabel", "ham"))
    >>> dict(journal.decisions())
    {7: Decision(row=7, action='relabel', label='ham')}
    >>> journal.undo().row, dict(journal.decisions())
    (7, {})
    """

    def __init__(self, path: str | Path, file: str, target: str, hash: str) -> None:
        self.path, self._lock = path, threading.Lock()
        self._now: Decided | None = None
        self._changes, self._foreign = 0, -1
        try:
            self._connection = sqlite3.connect(
                path, timeout=PATIENCE, isolation_level=None, check_same_thread=False
            )
            self._connection.executescript(SCHEMA)
            found = self._connection.execute("SELECT file, target, hash FROM subject").fetchone()
            if found is None:
                found = (plain(file), target, hash)  # SQLite takes no halves of characters
                self._connection.execute("INSERT INTO subject VALUES (?, ?, ?)", found)
        except sqlite3.Error as error:
            raise FileError(f"{path}: cannot be used as a journal ({error})") from error
        if found[1] != target:
            raise FileError(
                f"{path} holds decisions about the target {found[1]!r}, not {target!r}: name another --journal"
            )
        if found[2] != hash:
            raise FileError(
                f"{path} holds decisions about another state of {found[0]}: the file has changed since, or other "
                "rows of it are left out. Restore it, or name another --journal"
            )

    def check_writable(self) -> None:
        """Whether decisions can be written down, found out by writing what stands there already.

        Raises JournalError where they cannot: before anybody decides, not after.
        """
        with self._lock, self._written():
            self._connection.execute("UPDATE subject SET file = file")

    def add(self, decision: Decision) -> None:
        """A decision is on the disk when this returns, with the time at which it was taken.

        One that says what the newest says already, as a button pressed twice does, changes nothing. Raises JournalError
        where it cannot be written.
        """
        time = datetime.now(timezone.utc).isoformat(timespec="seconds")
        with self._lock, self._written():
            before = self._current()
            if before.newest and list(before.rows.values())[-1] == decision:
                return
            added = self._connection.execute(
                "INSERT INTO decision (row, action, label, time) VALUES (?, ?, ?, ?)",
                (decision.row, decision.action, decision.label, time),
            )
            rows = {row: other for row, other in before.rows.items() if row != decision.row}
            self._changes += 1
            self._now = Decided(self._changes, int(added.lastrowid or 0), rows | {decision.row: decision})

    def undo(self, number: int | None = None) -> Decision | None:
        """The newest decision is taken back and returned; None where there is none.

        With the `number` of a decision (`Decided.newest`) only that one is, if it is still the newest. Raises
        JournalError where that cannot be written.
        """
        with self._lock, self._written():
            newest = self._connection.execute(
                "SELECT number, row, action, label FROM decision WHERE undone = 0 ORDER BY number DESC LIMIT 1"
            ).fetchone()
            if newest is None or number not in (None, newest[0]):
                return None
            self._connection.execute("UPDATE decision SET undone = 1 WHERE number = ?", newest[:1])
            self._now = None
        return Decision(*newest[1:])

    def decisions(self) -> Mapping[int, Decision]:
        """What holds for each decided row, by its place: its newest decision that was not undone.

        The row decided last stands last. Raises JournalError where the journal cannot be read.
        """
        return self.now().rows

    def now(self) -> Decided:
        """The decisions at this moment. Raises JournalError where the journal cannot be read."""
        with self._lock, self._said():
            return self._current()

    def _current(self) -> Decided:
        """What is known already, or, where another program has written to the journal, what stands there."""
        (foreign,) = self._connection.execute("PRAGMA data_version").fetchone()
        if self._now is None or foreign != self._foreign:
            lines = self._connection.execute(
                "SELECT number, row, action, label FROM decision WHERE undone = 0 ORDER BY number"
            ).fetchall()
            rows: dict[int, Decision] = {}
            for _, row, action, label in lines:
                rows.pop(row, None)
                rows[row] = Decision(row, action, label)
            self._changes, self._foreign = self._changes + 1, foreign
            self._now = Decided(self._changes, lines[-1][0], rows) if lines else Decided(0, 0, {})
        return self._now

    @contextmanager
    def _said(self) -> Iterator[None]:
        """What SQLite says of a journal that cannot be used now, with what to do."""
        try:
            yield
        except sqlite3.Error as error:
            raise JournalError(
                f"the journal {self.path} cannot be used now ({error}): nothing was changed. Is the disk full, the "
                "file read-only, or another program using it? Mend that first"
            ) from error

    @contextmanager
    def _written(self) -> Iterator[None]:
        """Writing to a file that has been moved or deleted is refused: nobody would find it. Else as `_said`."""
        if str(self.path) != ":memory:" and not Path(self.path).exists():
            raise JournalError(
                f"the journal {self.path} was moved or deleted: nothing was written. Put it back, or export the labels "
                "as decided so far, and start again"
            )
        with self._said():
            yield

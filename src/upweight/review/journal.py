"""Decisions on disk: a small SQLite file, written before a decision is answered."""

from __future__ import annotations

import sqlite3
import threading
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

import xxhash

from ..tables.reading import FileError

ACTIONS = ("keep", "relabel", "drop", "skip")
"""What can be decided about a row."""
PART = 1 << 24
"""Bytes of a file that are hashed at once."""

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


class Journal:
    """The decisions about one file and target, oldest first; undone ones stay in the file, marked.

    Args:
        path: The journal itself, which is made if it is not there; ":memory:" keeps it nowhere.
        file: The name of the file that is reviewed.
        target: The column whose labels are reviewed.
        hash: What tells the state of the file (`file_hash`).

    Raises:
        FileError: The journal belongs to another target or another state of the file, or is no journal.

    >>> journal = Journal(":memory:", "train.csv", "label", "hash")
    >>> journal.add(Decision(7, "relabel", "ham"))
    >>> journal.decisions()
    {7: Decision(row=7, action='relabel', label='ham')}
    >>> journal.undo().row, journal.decisions()
    (7, {})
    """

    def __init__(self, path: str | Path, file: str, target: str, hash: str) -> None:
        self._lock = threading.Lock()
        try:
            self._connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
            self._connection.executescript(SCHEMA)
            found = self._connection.execute("SELECT file, target, hash FROM subject").fetchone()
        except sqlite3.Error as error:
            raise FileError(f"{path}: cannot be used as a journal ({error})") from error
        if found is None:
            self._connection.execute("INSERT INTO subject VALUES (?, ?, ?)", (file, target, hash))
        elif found[1] != target:
            raise FileError(
                f"{path} holds decisions about the target {found[1]!r}, not {target!r}: name another --journal"
            )
        elif found[2] != hash:
            raise FileError(
                f"{path} holds decisions about another state of {found[0]}: the file has changed since. Restore it, or "
                "name another --journal"
            )

    def add(self, decision: Decision) -> None:
        """A decision is on the disk when this returns, with the time at which it was taken."""
        time = datetime.now(timezone.utc).isoformat(timespec="seconds")
        with self._lock:
            self._connection.execute(
                "INSERT INTO decision (row, action, label, time) VALUES (?, ?, ?, ?)",
                (decision.row, decision.action, decision.label, time),
            )

    def undo(self) -> Decision | None:
        """The newest decision is taken back and returned; None where there is none."""
        with self._lock:
            newest = self._connection.execute(
                "SELECT number, row, action, label FROM decision WHERE undone = 0 ORDER BY number DESC LIMIT 1"
            ).fetchone()
            if newest is None:
                return None
            self._connection.execute("UPDATE decision SET undone = 1 WHERE number = ?", newest[:1])
        return Decision(*newest[1:])

    def decisions(self) -> dict[int, Decision]:
        """What holds for each decided row, by its place: its newest decision that was not undone."""
        with self._lock:
            lines = self._connection.execute(
                "SELECT row, action, label FROM decision WHERE undone = 0 ORDER BY number"
            ).fetchall()
        return {row: Decision(row, action, label) for row, action, label in lines}


def file_hash(path: Path) -> str:
    """A hash of a file's bytes, which tells whether it is the file that decisions were taken about."""
    found = xxhash.xxh3_128()
    with path.open("rb") as content:
        while part := content.read(PART):
            found.update(part)
    return found.hexdigest()

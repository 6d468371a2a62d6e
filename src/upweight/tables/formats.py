"""Kinds of files: how each becomes a table, and how it is written again with other labels and without some rows."""

from __future__ import annotations

import bz2
import gzip
import lzma
from abc import ABC, abstractmethod
from collections.abc import Callable
from io import BufferedIOBase, BytesIO
from pathlib import Path

import pandas as pd

from ..runtime.terminal import plain
from .spreadsheet import inert

Source = Path | BytesIO
"""A file on disk, or the bytes of one."""

COMPRESSED: dict[str, tuple[Callable[..., BufferedIOBase], Callable[[bytes], bytes]]] = {
    ".gz": (gzip.open, gzip.compress),
    ".bz2": (bz2.open, bz2.compress),
    ".xz": (lzma.open, lzma.compress),
}
"""How text is taken out of a packed file and put into one, by the last suffix."""


OTHERWISE = "the corrected file does not read as it should when it is read back, so it is not given out"
"""Why nothing is written."""


def unpacked(source: Source, packed: str) -> BufferedIOBase:
    """The bytes of a file from their beginning, as a file of their own.

    Args:
        source: The file.
        packed: The suffix that says what it is packed with, or "".
    """
    given = BytesIO(source.getvalue()) if isinstance(source, BytesIO) else source
    if packed:
        return COMPRESSED[packed][0](given)
    return given.open("rb") if isinstance(given, Path) else given


class FileError(ValueError):
    """A file, a column or a row cannot be used as it is; the message says what to do, and steers no terminal."""

    def __init__(self, message: str) -> None:
        super().__init__(plain(message))


class Format(ABC):
    """A kind of file of rows."""

    @abstractmethod
    def read(self, source: Source) -> tuple[pd.DataFrame, tuple[str, ...]]:
        """The table of a file, its rows counted from 0, and what is to be said about how it was read."""

    @abstractmethod
    def edited(self, content: bytes, target: str, rows: pd.Series, *, exact: bool) -> bytes:
        """A file's bytes with some labels as other rows have them, and without the other rows.

        Args:
            content: The bytes of the file.
            target: The column of labels.
            rows: The rows that stay, counted from 0, as the index; the values are the rows whose labels they get.
            exact: Whether cells stay as they are that a spreadsheet would run as a formula.

        Raises:
            FileError: The file cannot be written again.
        """


def corrected(format: Format, content: bytes, target: str, rows: pd.Series, *, exact: bool) -> bytes:
    """`Format.edited`, read back: what is returned holds these labels and every other cell of these rows as it was.

    Args:
        format: The kind of the file.
        content: The bytes of the file.
        target: The column of labels.
        rows: The rows that stay, counted from 0, as the index; the values are the rows whose labels they get.
        exact: Whether cells stay as they are that a spreadsheet would run as a formula.

    Raises:
        FileError: The file cannot be written again so that it reads as it should.
    """
    made = format.edited(content, target, rows, exact=exact)
    before, found = (format.read(BytesIO(some))[0].astype(object) for some in (content, made))
    expected = before.take(rows.index.to_numpy()).reset_index(drop=True)
    expected[target] = before[target].take(rows.to_numpy()).reset_index(drop=True)
    if not (found.equals(expected) or inert(found).equals(inert(expected))):
        raise FileError(OTHERWISE)
    return made

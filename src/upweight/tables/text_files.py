"""CSV and its like: text with a separator between cells, in any encoding, packed or not."""

from __future__ import annotations

import codecs
import csv
import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from typing import Any

import numpy as np
import pandas as pd

from .formats import COMPRESSED, OTHERWISE, FileError, Format, Source, unpacked
from .spreadsheet import inert

SEPARATORS = {".csv": ",", ".tsv": "\t", ".txt": "\t", ".dat": " "}
"""What stands between the cells of a text file by its suffix, unless its text shows something else."""
UTF8 = "utf-8"
_OTHERS = (",", ";", "\t", "|", " ")
_HEAD = 1 << 16
"""Bytes from which the encoding and the separator are told."""
_NAMES = {"\t": "a tab", " ": "spaces"}
_TYPED = {"tab": "\t", "\\t": "\t", "space": " "}
"""What people type for separators that cannot be seen."""


@dataclass(frozen=True)
class Text(Format):
    """A text file of rows; its first line names the columns.

    Attributes:
        usual: What stands between the cells of such files.
        separator: What stands between the cells; None has it told by the text.
        encoding: How the letters are written; UTF-16 and a mark of UTF-8 are noticed.
        packed: The suffix of a packed file, or "".
    """

    usual: str = ","
    separator: str | None = None
    encoding: str = UTF8
    packed: str = ""

    def read(self, source: Source) -> tuple[pd.DataFrame, tuple[str, ...]]:
        head = self._start(source)
        encoding, separator = self._encoding(head), self._between(head)
        parsed = partial(
            pd.read_csv, sep=_pattern(separator), encoding=encoding, keep_default_na=False, na_values=[""],
            low_memory=False, compression=None, quotechar=self._quote(head),
        )  # fmt: skip
        with unpacked(source, self.packed) as file:
            table = parsed(file)
        first, second, *_ = [*self._cells(head, separator), 0, 0]
        if second > first:  # rows have more cells than the first line: pandas takes the first for an index
            if table.iloc[:, -1].isna().all():
                with unpacked(source, self.packed) as file:
                    table = parsed(file, index_col=False, usecols=range(table.shape[1]))
            else:  # a column of names without a heading, as R writes it
                table = table.rename_axis(["Unnamed: 0"] if table.index.nlevels == 1 else None).reset_index()
        notes = []
        if separator != self.usual and self.separator is None:
            notes.append(
                f"read with {_NAMES.get(separator, repr(separator))} between cells (--separator takes another)"
            )
        if encoding.startswith("utf-16") and encoding != self.encoding:
            notes.append(f"read as {encoding.upper()}")
        return table, tuple(notes)

    def edited(self, content: bytes, target: str, rows: pd.Series, *, exact: bool) -> bytes:
        head = self._start(BytesIO(content))
        encoding, separator = self._encoding(head), self._between(head)
        names = [str(name) for name in self.read(BytesIO(content))[0].columns]
        with unpacked(BytesIO(content), self.packed) as file:
            text = file.read().decode(encoding)
        parsed = partial(
            pd.read_csv, sep=_pattern(separator), header=None, dtype=str, na_filter=False, low_memory=False,
            quotechar=self._quote(head),
        )  # fmt: skip
        cells = parsed(io.StringIO(text, newline=""))
        if cells.shape[1] != len(names):
            raise FileError("its first line has another number of cells than its rows: name every column")
        body, place = cells.iloc[1:].reset_index(drop=True), names.index(target)
        made = body.take(rows.index.to_numpy())
        made[place] = body[place].take(rows.to_numpy()).to_numpy()
        table = pd.concat([cells.iloc[:1], made], ignore_index=True)
        table = table if exact else inert(table)
        places = np.concatenate([[0], rows.index.to_numpy() + 1])
        style = {"delimiter": separator, "quotechar": self._quote(head)}
        for found in _respelled(text, cells, table, places, style):
            try:
                if parsed(io.StringIO(found, newline="")).equals(table):
                    made_bytes = found.encode(encoding)
                    return COMPRESSED[self.packed][1](made_bytes) if self.packed else made_bytes
            except ValueError:  # pandas' parser: rows of several lengths
                pass
        raise FileError(OTHERWISE)

    def _start(self, source: Source) -> bytes:
        with unpacked(source, self.packed) as file:
            return file.read(_HEAD)

    def _encoding(self, head: bytes) -> str:
        """How the letters are written: as was said, unless the first bytes are those of another Unicode."""
        if self.encoding != UTF8:
            return self.encoding
        if head.startswith(codecs.BOM_UTF8):
            return "utf-8-sig"
        if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            return "utf-16"
        if b"\0" in head[1:4:2] and b"\0" not in head[:4:2]:
            return "utf-16-le"
        return "utf-16-be" if b"\0" in head[:4:2] and b"\0" not in head[1:4:2] else UTF8

    def _quote(self, head: bytes) -> str:
        """What stands around cells: double quotes, unless there are single ones around every name of a column."""
        names = head.decode(self._encoding(head), errors="replace").partition("\n")[0].strip()
        return "'" if re.fullmatch(r"'[^']*'([^'\w]+'[^']*')*", names) else '"'

    def _between(self, head: bytes) -> str:
        """What stands between cells: what was said, or what cuts all first lines in as many parts, two or more."""
        if self.separator is not None:
            separator = _TYPED.get(self.separator, self.separator)
            if len(separator) != 1:
                raise FileError(f"--separator {self.separator!r} must be one character, tab or space")
            return separator
        for separator in dict.fromkeys([self.usual, *_OTHERS]):
            first, *counts = self._cells(head, separator) or [0]
            if first > 1 and set(counts) in (set(), {first}, {first + 1}):
                return separator
        return self.usual

    def _cells(self, head: bytes, separator: str) -> list[int]:
        """The number of cells in each of the first lines, if that is what stands between them."""
        text, whole = head.decode(self._encoding(head), errors="replace"), len(head) < _HEAD
        lines = csv.reader(
            io.StringIO(text, newline=""), delimiter=separator, quotechar=self._quote(head),
            skipinitialspace=separator == " ",
        )  # fmt: skip
        try:
            return [len(line) for line in lines if line][: None if whole else -1]  # the last may be cut
        except csv.Error:  # a cell longer than Python's module takes
            return []


def _pattern(separator: str) -> str:
    return r"\s+" if separator == " " else separator


def _respelled(
    text: str, cells: pd.DataFrame, table: pd.DataFrame, places: np.ndarray, style: dict[str, Any]
) -> Iterator[str]:
    """The text of a table with as few quotes as can be, then with all; rows that do not change stay as they are.

    Args:
        text: The file.
        cells: Its cells, the names of the columns in the first row.
        table: What is to be written, of fewer rows perhaps.
        places: The rows of `cells` that those of `table` come from.
        style: What stands between cells, and around them.
    """
    changed = (table.to_numpy() != cells.take(places).to_numpy()).any(axis=1)
    records, ends = _records(text, len(cells), style), "\r\n" if "\r\n" in text else "\n"
    # A lone carriage return ends a row where Python's writer has not quoted it.
    for quoting in (csv.QUOTE_MINIMAL, csv.QUOTE_ALL):
        lines = []
        for row, new, place in zip(table.to_numpy().tolist(), changed, places, strict=True):
            if new or records is None:
                out = io.StringIO(newline="")
                csv.writer(out, quoting=quoting, lineterminator=ends, **style).writerow(row)
                lines.append(out.getvalue())
            else:
                lines.append(records[place])
        yield "".join(line if line[-1] in "\r\n" else line + ends for line in lines[:-1]) + lines[-1]


def _records(text: str, count: int, style: dict[str, Any]) -> list[str] | None:
    """The text of each row of a file; None where Python's reader finds another number of rows than pandas'."""
    lines, found, last = io.StringIO(text, newline="").readlines(), [], 0
    reader = csv.reader(lines, skipinitialspace=style["delimiter"] == " ", **style)
    try:
        for record in reader:
            if record:
                found.append("".join(lines[last : reader.line_num]))
            last = reader.line_num
    except csv.Error:  # a cell longer than Python's module takes
        return None
    return found if len(found) == count else None

"""Files of rows as tables, told apart by their suffix, and what is wrong with those that cannot be used."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import pandas as pd

from ..runtime.paths import file_hash, not_there
from .column_files import ColumnFile
from .formats import COMPRESSED, Format, corrected
from .formats import FileError as FileError
from .json_files import Json
from .sheets import Database, Sheet
from .text_files import SEPARATORS, UTF8, Text

LISTED = 5
"""Columns that a message names where none is close to the one that was asked for."""
INPUT = Path("-")
"""What stands for standard input."""
NEEDED = {".xlsx": "openpyxl", ".ods": "odfpy"}
"""What files of other kinds than pyarrow's are read with, beside pandas."""


@dataclass(frozen=True)
class Options:
    """How a file is read, as far as a person has to say it.

    Attributes:
        encoding: How the letters of a text file are written; the other kinds of files know theirs.
        separator: What stands between the cells of a text file; None has it told by the text.
        sheet: The sheet of a spreadsheet, or the table of a database; None takes the first, or the only one.
    """

    encoding: str = UTF8
    separator: str | None = None
    sheet: str | None = None


_MAKERS: dict[str, Callable[[str, str, Options], Format]] = {
    **dict.fromkeys(SEPARATORS, lambda s, packed, o: Text(SEPARATORS[s], o.separator, o.encoding, packed)),
    **dict.fromkeys((".json", ".jsonl", ".ndjson"), lambda s, packed, o: Json(packed, lines=s != ".json")),
    **dict.fromkeys((".parquet", ".arrow", ".feather", ".orc"), lambda s, _, o: ColumnFile(s)),
    **dict.fromkeys((".xlsx", ".ods"), lambda s, _, o: Sheet(s, o.sheet)),
    **dict.fromkeys((".sqlite", ".sqlite3", ".db"), lambda s, _, o: Database(o.sheet)),
}
_PACKED = (*SEPARATORS, ".json", ".jsonl", ".ndjson")
"""Kinds of files that may be packed: the others are packed themselves."""
_BEGINNINGS = {
    b"PAR1": ".parquet", b"ARROW1": ".arrow", b"ORC": ".orc", b"SQLite format 3": ".sqlite", b"[": ".json",
    b"{": ".json", b"PK": ".xlsx", b"\x1f\x8b": ".csv.gz",
}  # fmt: skip
"""What the bytes of standard input begin with, by the suffix that a file of them would have; otherwise they are CSV."""


@dataclass(frozen=True, eq=False)
class FileRead:
    """A file of rows that was read, and what is needed to write its like.

    Attributes:
        path: The file, or `INPUT`.
        table: Its rows (n), counted from 0; the names of columns are strings.
        format: What kind of file it is.
        hash: The hash of its bytes before it was read, which tells whether it is still that file; "" of `INPUT`.
        notes: What is to be said about how it was read.
    """

    path: Path
    table: pd.DataFrame
    format: Format
    hash: str
    notes: tuple[str, ...] = ()

    @property
    def corrected_name(self) -> str:
        """The name of the corrected file."""
        name = self.path.name
        place = len(name) - len("".join(_suffix(name)))
        return f"{name[:place]}.corrected{name[place:]}"

    def corrected(self, content: bytes, target: str, rows: pd.Series, *, exact: bool = False) -> bytes:
        """The file with some labels as other rows have them, and without the other rows; it has been read back.

        Args:
            content: The bytes of the file as it was read.
            target: The column of labels.
            rows: The rows that stay, counted from 0, as the index; the values are the rows whose labels they get.
            exact: Whether cells stay as they are that a spreadsheet would run as a formula.

        Raises:
            FileError: The file cannot be written so that it reads as it should.
        """
        try:
            return corrected(self.format, content, target, rows, exact=exact)
        except FileError as error:
            raise FileError(f"{self.path.name}: {error}") from error


def read(path: str | Path, encoding: str = UTF8) -> pd.DataFrame:
    """The table of a file, as `opened` reads it: its rows are counted from 0, its columns named by strings."""
    return opened(path, Options(encoding)).table


def opened(path: str | Path, options: Options | None = None) -> FileRead:
    """A file is read as a table of its rows: text, JSON, Parquet and its like, spreadsheets, SQLite; "-" is the input.

    In text files only an empty cell is missing: "None" and "?" are values.

    Args:
        path: The file; its kind is told by its suffix, also by one before .gz, .bz2 and .xz.
        options: How it is read.

    Raises:
        FileError: The file is not there (closely named neighbours are proposed), has no rows, is of another kind, is
            broken or in another encoding, or has two columns of one name.
    """
    path, options = Path(path), options or Options()
    source: Path | BytesIO = path
    suffix, packed = _suffix(path.name)
    if path == INPUT:
        source = BytesIO(sys.stdin.buffer.read())
        suffix, packed = _suffix(f"input{_kind_of_bytes(source.getvalue()[:64])}")
    if suffix not in _MAKERS or (packed and suffix not in _PACKED):
        raise FileError(
            f"{path.name}: cannot read {suffix or 'a file without a suffix'}{packed}; use {', '.join(_MAKERS)}"
        )
    if path != INPUT and (trouble := not_there(path)):
        raise FileError(trouble)
    found = _parsed(path, source, _MAKERS[suffix](suffix, packed, options), options.encoding)
    table = found.table
    if table.empty:
        raise FileError(f"{path.name}: the file has no rows")
    table.columns = table.columns.map(str)
    if not table.columns.is_unique:
        twice = table.columns[table.columns.duplicated()].tolist()
        raise FileError(f"{path.name}: column {twice[0]!r} is there twice: rename one")
    return found


def _suffix(name: str) -> tuple[str, str]:
    """The suffix that tells the kind of a file, and that of what it is packed with.

    >>> _suffix("a.csv.gz"), _suffix("a.JSON")
    (('.csv', '.gz'), ('.json', ''))
    """
    *_, before, last = ["", "", *(suffix.lower() for suffix in Path(name).suffixes)]
    return (before, last) if last in COMPRESSED else (last, "")


def _kind_of_bytes(head: bytes) -> str:
    """The suffix that a file would have that begins with these bytes."""
    if head[30:].startswith(b"mimetypeapplication/vnd.oasis"):
        return ".ods"
    return next((suffix for start, suffix in _BEGINNINGS.items() if head.lstrip().startswith(start)), ".csv")


def _parsed(path: Path, source: Path | BytesIO, format: Format, encoding: str) -> FileRead:
    """What a format makes of the file; whatever goes wrong as one sentence."""
    try:
        hash = file_hash(source) if isinstance(source, Path) else ""
        table, notes = format.read(source)
    except ImportError as error:
        needed = NEEDED.get(path.suffix.lower(), "pyarrow")
        raise FileError(
            f'{path.name}: {path.suffix} files need {needed}: pip install "upweight[files]"'
        ) from error
    except UnicodeDecodeError as error:
        raise FileError(
            f"{path.name}: byte {error.start} of what was being read is not {encoding}: name the file's encoding, for "
            "example --encoding latin-1"
        ) from error
    except FileError as error:
        raise FileError(f"{path.name}: {error}") from error
    except Exception as error:  # whatever the readers of broken files raise
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise FileError(f"{path.name}: cannot be read: {reason}") from error
    return FileRead(path, table, format, hash, notes)


def check_column(table: pd.DataFrame, name: str, where: str = "") -> None:
    """A table must have the column: otherwise `FileError` is raised, with the closest names, in whatever case.

    Args:
        table: The table.
        name: The name of the column.
        where: What is said of the table behind the name.

    >>> check_column(pd.DataFrame({"age": [1], "town": ["north"]}), "aeg")
    Traceback (most recent call last):
    ...
    upweight.tables.formats.FileError: no column 'aeg'; closest: age
    """
    if name not in table.columns:
        lower = {column.casefold(): column for column in reversed(table.columns)}
        found = difflib.get_close_matches(name.casefold(), lower, 3, 0.4)
        close = [lower[word] for word in found] or list(table.columns[:LISTED])
        raise FileError(f"no column {name!r}{where}; closest: {', '.join(close)}")


def row_ids(table: pd.DataFrame, column: str) -> pd.Index:
    """The names of a table's rows (n,), which one of its columns holds.

    Raises FileError where the column is not there, or two rows have the same name.
    """
    check_column(table, column)
    ids = table[column]
    twice = ids[ids.duplicated()]
    if len(twice):
        count = (ids == twice.iloc[0]).sum()
        raise FileError(f"ids must be unique: {column} {twice.iloc[0]!r} is there {count} times")
    return pd.Index(ids)


def inside(folder: Path, name: str) -> Path:
    """The path of a file that a table names, which must lie in the table's own folder.

    Raises FileError for paths that lead out of the folder, and for files that are not there.

    >>> inside(Path("."), "../secret.png")
    Traceback (most recent call last):
    ...
    upweight.tables.formats.FileError: ../secret.png lies outside the folder of the file that names it
    """
    path = (folder / name).resolve()
    if not path.is_relative_to(folder.resolve()):
        raise FileError(f"{name} lies outside the folder of the file that names it")
    if not path.is_file():
        raise FileError(f"{path}: no such image")
    return path

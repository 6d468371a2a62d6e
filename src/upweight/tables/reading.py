"""Files of rows (CSV, TSV, Parquet, Arrow) as tables, and what is wrong with those that cannot be used."""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Callable
from pathlib import Path

import pandas as pd

from ..runtime.paths import not_there
from ..runtime.terminal import plain

SEPARATORS = {".csv": ",", ".tsv": "\t"}
"""What stands between the cells of a text file, by the file's suffix."""
LISTED = 5
"""Columns that a message names where none is close to the one that was asked for."""


class FileError(ValueError):
    """A file, a column or a row cannot be used as it is; the message says what to do, and steers no terminal."""

    def __init__(self, message: str) -> None:
        super().__init__(plain(message))


def read(path: str | Path, encoding: str = "utf-8") -> pd.DataFrame:
    """A file is read as a table of its rows: CSV, TSV, Parquet or Arrow (Feather), told apart by the suffix.

    In text files only an empty cell is missing: "None" and "?" are values. The names of columns become strings.

    Args:
        path: The file.
        encoding: How the letters of a text file are written; the other kinds of files know theirs.

    Returns:
        The table (n rows), its rows counted from 0 unless the file itself keeps an index.

    Raises:
        FileError: The file is not there (closely named neighbours are proposed), has no rows, is of another kind, is
            broken or in another encoding, or has two columns of one name.
    """
    path = Path(path)
    kind = path.suffix.lower()
    if kind not in _READERS:
        raise FileError(
            f"{path.name}: cannot read {kind or 'a file without a suffix'}; use {', '.join(_READERS)}"
        )
    if trouble := not_there(path):
        raise FileError(trouble)
    table = _parsed(path, encoding)
    if table.empty:
        raise FileError(f"{path.name}: the file has no rows")
    table.columns = table.columns.map(str)
    if not table.columns.is_unique:
        twice = table.columns[table.columns.duplicated()].tolist()
        raise FileError(f"{path.name}: column {twice[0]!r} is there twice: rename one")
    return table


def _parsed(path: Path, encoding: str) -> pd.DataFrame:
    """What pandas makes of the file; its errors as one sentence."""
    kind = path.suffix.lower()
    try:
        return _READERS[kind](path, encoding)
    except ImportError as error:
        raise FileError(f'{path.name}: {kind} files need pyarrow: pip install "upweight[files]"') from error
    except UnicodeDecodeError as error:
        raise FileError(
            f"{path.name}: byte {error.start} of what was being read is not {encoding}: name the file's encoding, for "
            "example --encoding latin-1"
        ) from error
    except (ValueError, OSError, LookupError) as error:  # pandas' own errors are ValueErrors
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise FileError(f"{path.name}: cannot be read: {reason}") from error


def _text(path: Path, encoding: str) -> pd.DataFrame:
    separator = SEPARATORS[path.suffix.lower()]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", pd.errors.DtypeWarning)  # `understood` looks at mixed columns
        return pd.read_csv(path, sep=separator, encoding=encoding, keep_default_na=False, na_values=[""])


_READERS: dict[str, Callable[[Path, str], pd.DataFrame]] = {
    **dict.fromkeys(SEPARATORS, _text),
    ".parquet": lambda path, _: pd.read_parquet(path),
    ".arrow": lambda path, _: pd.read_feather(path),
    ".feather": lambda path, _: pd.read_feather(path),
}


def check_column(table: pd.DataFrame, name: str) -> None:
    """A table must have the column: otherwise `FileError` is raised, with the closest names, in whatever case.

    >>> check_column(pd.DataFrame({"age": [1], "town": ["north"]}), "aeg")
    Traceback (most recent call last):
    ...
    upweight.tables.reading.FileError: no column 'aeg'; closest: age
    """
    if name not in table.columns:
        lower = {column.casefold(): column for column in reversed(table.columns)}
        found = difflib.get_close_matches(name.casefold(), lower, 3, 0.4)
        close = [lower[word] for word in found] or list(table.columns[:LISTED])
        raise FileError(f"no column {name!r}; closest: {', '.join(close)}")


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
    upweight.tables.reading.FileError: ../secret.png lies outside the folder of the file that names it
    """
    path = (folder / name).resolve()
    if not path.is_relative_to(folder.resolve()):
        raise FileError(f"{name} lies outside the folder of the file that names it")
    if not path.is_file():
        raise FileError(f"{path}: no such image")
    return path

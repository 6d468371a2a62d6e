"""Spreadsheets (.xlsx, .ods) and tables of SQLite databases."""

from __future__ import annotations

import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import pandas as pd

from .formats import FileError, Format, Source


@dataclass(frozen=True)
class Sheet(Format):
    """A sheet of a spreadsheet; its first line names the columns.

    Attributes:
        suffix: ".xlsx" or ".ods".
        name: The sheet; None takes the first one.
    """

    suffix: str
    name: str | None = None

    def read(self, source: Source) -> tuple[pd.DataFrame, tuple[str, ...]]:
        with pd.ExcelFile(source, engine="odf" if self.suffix == ".ods" else "openpyxl") as book:
            names = list(map(str, book.sheet_names))
            name = names[0] if self.name is None else self.name
            if name not in names:
                raise FileError(f"no sheet {name!r}; there are {', '.join(names)}")
            table = pd.read_excel(book, sheet_name=name, keep_default_na=False, na_values=[""])
        notes = (f"sheet {name!r} is read, of {', '.join(names)} (--sheet takes another)",)
        return table, notes if len(names) > 1 and self.name is None else ()

    def edited(self, content: bytes, target: str, rows: pd.Series, *, exact: bool) -> bytes:
        out = BytesIO()
        if self.suffix == ".ods":
            sheets = pd.read_excel(BytesIO(content), sheet_name=None, header=None, engine="odf", na_values=[""],
                                   keep_default_na=False)  # fmt: skip
            name = self.name or next(iter(sheets))
            cells = sheets[name]
            place = list(map(str, cells.iloc[0])).index(target)
            body = cells.iloc[1:].reset_index(drop=True)
            made = body.take(rows.index.to_numpy())
            made[place] = body[place].take(rows.to_numpy()).to_numpy()
            sheets[name] = pd.concat([cells.iloc[:1], made])
            with pd.ExcelWriter(out, engine="odf") as writer:
                for each, frame in sheets.items():
                    frame.to_excel(writer, sheet_name=str(each), header=False, index=False)
            return out.getvalue()
        import openpyxl

        book = openpyxl.load_workbook(BytesIO(content))
        sheet = book.worksheets[0] if self.name is None else book[self.name]
        column = next(cell.column for cell in sheet[1] if str(cell.value) == target)
        labels = [sheet.cell(row + 2, column).value for row in range(sheet.max_row - 1)]
        for row, source in rows.items():
            sheet.cell(row + 2, column).value = labels[source]
        for row in sorted(set(range(len(labels))) - set(rows.index), reverse=True):
            sheet.delete_rows(row + 2)
        book.save(out)
        return out.getvalue()


@dataclass(frozen=True)
class Database(Format):
    """A table of a SQLite database.

    Attributes:
        name: The table; None takes the only one.
    """

    name: str | None = None

    def read(self, source: Source) -> tuple[pd.DataFrame, tuple[str, ...]]:
        with (
            _on_disk(source) as path,
            closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as base,
        ):
            name = self._table(base)
            try:
                return pd.read_sql_query(f"SELECT * FROM {_quoted(name)} ORDER BY rowid", base), ()
            except pd.errors.DatabaseError:  # a view, or a table without rowids
                return pd.read_sql_query(f"SELECT * FROM {_quoted(name)}", base), ()

    def edited(self, content: bytes, target: str, rows: pd.Series, *, exact: bool) -> bytes:
        with _on_disk(BytesIO(content)) as path:
            with closing(sqlite3.connect(path)) as base:
                table, column = _quoted(self._table(base)), _quoted(target)
                try:
                    known = base.execute(f"SELECT rowid, {column} FROM {table} ORDER BY rowid").fetchall()
                    base.executemany(
                        f"UPDATE {table} SET {column} = ? WHERE rowid = ?",
                        [(known[source][1], known[row][0]) for row, source in rows.items() if row != source],
                    )
                    gone = sorted(set(range(len(known))) - set(rows.index))
                    base.executemany(f"DELETE FROM {table} WHERE rowid = ?", [known[row][:1] for row in gone])
                    base.commit()
                except sqlite3.Error as error:
                    raise FileError(f"table {table} cannot be written ({error})") from error
            return path.read_bytes()

    def _table(self, base: sqlite3.Connection) -> str:
        query = "SELECT name FROM sqlite_master WHERE type IN ('table', 'view') AND name NOT LIKE 'sqlite_%'"
        names = [name for (name,) in base.execute(query)]
        if self.name is None and len(names) == 1:
            return names[0]
        if self.name is not None and self.name in names:
            return self.name
        raise FileError(f"name a table with --sheet: there are {', '.join(names) or 'none'}")


def _read_only(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


@contextmanager
def _on_disk(source: Source) -> Iterator[Path]:
    """A database as a file, which SQLite needs; bytes are put into one that goes away again."""
    if isinstance(source, Path):
        yield source
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "bytes"
        path.write_bytes(source.getvalue())
        yield path

"""The corrected file: what was decided, and every other cell as it was."""

from __future__ import annotations

import codecs
import csv
import io
from collections.abc import Callable
from functools import partial

import pandas as pd

from ..tables.reading import SEPARATORS, FileError
from ..tables.spreadsheet import inert
from .session import Session


def corrected_file(session: Session, *, exact: bool = False) -> tuple[str, bytes]:
    """The name and the bytes of the session's file with the labels as decided and without the dropped rows.

    It is of the file's own kind, and has been read back: what is given out holds these very cells. In CSV and TSV, text
    that a spreadsheet would run as a formula gets an apostrophe before it, unless `exact`.

    Raises FileError where the file has changed since the review began, or cannot be written so that it reads as it is.
    """
    path, content = session.fitted.path, session.file.content()
    suffix = path.suffix.lower()
    if suffix in SEPARATORS:
        made = _text(session, content, SEPARATORS[suffix], exact)
    else:
        table = session.corrected(session.fitted.raw).reset_index(drop=True)
        parquet = suffix == ".parquet"
        write = table.to_parquet if parquet else table.to_feather
        made = _read_back(table, write, pd.read_parquet if parquet else pd.read_feather)
    if made is None:
        raise FileError(
            f"{path.name}: the corrected file does not read as it should when it is read back, so it is not given out"
        )
    return f"{path.stem}.corrected{path.suffix}", made


def _text(session: Session, content: bytes, separator: str, exact: bool) -> bytes | None:
    """The corrected cells as the file's own kind of text; None where no quoting makes them read as they are."""
    encoding, names = session.fitted.encoding, session.fitted.raw.columns
    read = partial(
        pd.read_csv, sep=separator, encoding=encoding, header=None, dtype=str, na_filter=False, low_memory=False
    )  # fmt: skip
    cells = read(io.BytesIO(content))
    if cells.shape[1] != len(names):
        raise FileError(
            f"{session.fitted.path.name}: its first line has another number of cells than its rows: name every column"
        )
    rows = session.corrected(cells.iloc[1:].reset_index(drop=True).set_axis(names, axis=1))
    table = pd.concat([cells.iloc[:1], rows.set_axis(cells.columns, axis=1)], ignore_index=True)
    table = table if exact else inert(table)
    first = content.partition(b"\n")[0]
    write = partial(
        table.to_csv, sep=separator, index=False, header=False,
        encoding="utf-8-sig" if content.startswith(codecs.BOM_UTF8) else encoding,
        lineterminator="\r\n" if first.endswith(b"\r") else "\n",
    )  # fmt: skip
    # A lone carriage return ends a row where Python's writer has not quoted it.
    quotings = (csv.QUOTE_MINIMAL, csv.QUOTE_ALL)
    tried = (_read_back(table, partial(write, quoting=quoting), read) for quoting in quotings)
    return next((made for made in tried if made is not None), None)


def _read_back(
    table: pd.DataFrame, write: Callable[..., object], read: Callable[..., pd.DataFrame]
) -> bytes | None:
    """The bytes that `write` makes of a table, if `read` finds the table in them."""
    out = io.BytesIO()
    write(out)
    try:
        found = read(io.BytesIO(out.getvalue()))
    except ValueError:  # pandas' parser: rows of several lengths
        return None
    return out.getvalue() if found.equals(table) else None

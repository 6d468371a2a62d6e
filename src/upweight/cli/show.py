"""Tables of answers on a terminal, as JSON, CSV or Parquet."""

from __future__ import annotations

import sys
from enum import Enum
from pathlib import Path

import pandas as pd
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..runtime.distributed import rank

WIDEST = 60
"""Characters of a cell that a table on the terminal shows."""


class Format(str, Enum):
    """How a table is written."""

    table = "table"
    json = "json"
    csv = "csv"
    parquet = "parquet"


def show(frame: pd.DataFrame, format: Format | None, out: Path | None, title: str) -> None:
    """Write a table to `out`, in the format of its suffix, or print it: for people on a terminal, else as CSV.

    Of several processes the first one does.

    Raises ValueError for Parquet without a file and suffixes that name no format.
    """
    if format is None and out is not None:
        suffix = out.suffix.lower().removeprefix(".")
        if suffix not in Format.__members__:
            raise ValueError(
                f"--out {out}: its suffix names no format; use .csv, .json or .parquet, or give --format"
            )
        format = Format(suffix)
    format = format or (Format.table if sys.stdout.isatty() else Format.csv)
    if format is Format.parquet and out is None:
        raise ValueError("--format parquet needs --out FILE")
    if rank() > 0:
        return
    if format is Format.parquet:
        frame.to_parquet(out)
        return
    if format is Format.table and out is None:
        Console().print(_for_people(frame, title))
        return
    text = {
        Format.json: lambda: (
            frame.reset_index().to_json(orient="records", indent=1, force_ascii=False) + "\n"
        ),
        Format.csv: lambda: inert(frame).to_csv(),
        Format.table: lambda: frame.to_string() + "\n",
    }[format]()
    if out is None:
        sys.stdout.write(text)
    else:
        out.write_text(text, encoding="utf-8")


def _for_people(frame: pd.DataFrame, title: str) -> Table:
    table = Table(title=title, title_justify="left")
    plain = frame.reset_index()
    signed = [
        "effect" in str(name) or name in ("newton", "rescaled", "first order") for name in plain.columns
    ]
    for name in plain.columns:
        number = pd.api.types.is_numeric_dtype(plain[name]) and not pd.api.types.is_bool_dtype(plain[name])
        table.add_column(str(name), justify="right" if number else "left", overflow="fold")
    for line in plain.itertuples(index=False):
        table.add_row(*(_cell(value, plus) for value, plus in zip(line, signed, strict=True)))
    return table


def _cell(value: object, signed: bool) -> Text:
    """A value as text that can neither style nor steer the terminal."""
    words = (f"{value:+.4g}" if signed else f"{value:.4g}") if isinstance(value, float) else str(value)
    words = "".join(c if c.isprintable() else " " for c in words)
    return Text(words if len(words) <= WIDEST else words[: WIDEST - 1] + "…")


def inert(frame: pd.DataFrame) -> pd.DataFrame:
    """Text that a spreadsheet would run as a formula, with an apostrophe before it; numbers are no formulas."""

    def safe(value: object) -> object:
        if not isinstance(value, str) or value[:1] not in ("=", "+", "-", "@", "\t", "\r"):
            return value
        try:
            float(value)
        except ValueError:
            return f"'{value}"
        return value

    found = frame.copy()
    for name in found.columns[[not pd.api.types.is_numeric_dtype(kind) for kind in found.dtypes]]:
        found[name] = found[name].map(safe)
    if not pd.api.types.is_numeric_dtype(found.index):
        found.index = found.index.map(safe)
    found.columns = found.columns.map(safe)
    return found

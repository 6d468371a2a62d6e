"""Tables of answers on a terminal, as JSON, CSV or Parquet."""

from __future__ import annotations

import sys
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING

from ..runtime.process import rank
from ..runtime.terminal import console, give, styled
from ..runtime.whole_files import whole

if TYPE_CHECKING:
    import pandas as pd
    from rich.table import Table
    from rich.text import Text

    from ..tables.fitted_file import FittedFile

WIDEST = 60
"""Characters of a cell that a table on the terminal shows."""
CHANGES = frozenset(
    {"first order", "rescaled", "newton", "only together", "low", "high", "retrained", "per row"}
    | {"predicted", "actual", "error"}
)
"""Columns of changes, besides those of effects: they are shown with their sign."""


class Format(str, Enum):
    """How a table is written: for people, or as JSON, CSV or Parquet for programs."""

    table = "table"
    json = "json"
    csv = "csv"
    parquet = "parquet"


def show(
    frame: pd.DataFrame, format: Format | None, out: Path | None, title: str, widest: int = WIDEST
) -> None:
    """A table is written to a file or printed; of several processes the first one does it.

    Args:
        frame: The table; its index is a column of what is written.
        format: How it is written. By default as the suffix of `out` says; without a file for people on a terminal,
            else as CSV.
        out: The file; None prints it.
        title: What stands above the table on a terminal.
        widest: Characters of a cell that are shown there.

    Raises:
        ValueError: Parquet without a file, or a suffix that names no format.
    """
    format = format_of(format, out)
    if rank() > 0:
        return
    if out is not None:
        with whole(out) as part:
            if format is Format.parquet:
                frame.to_parquet(part)
            else:
                part.write_text(_as_text(frame, format), encoding="utf-8")
    elif format is Format.table:
        console().print(for_people(frame, title, widest))
    else:
        give(_as_text(frame, format))


def format_of(format: Format | None, out: Path | None) -> Format:
    """How a table is written, where it can be: asked before the work begins, too.

    Args:
        format: as given, or None.
        out: the file, or None.

    Raises:
        ValueError: Parquet without a file, a suffix that names no format, or a folder that is not there.
    """
    if out is not None and not out.parent.is_dir():
        raise ValueError(f"--out {out}: there is no folder {out.parent}")
    if format is None and out is not None:
        suffix = out.suffix.lower().removeprefix(".")
        if suffix not in Format.__members__:
            raise ValueError(
                f"--out {out}: its suffix names no format; use .csv, .json or .parquet, or give --format"
            )
        return Format(suffix)
    if format is Format.parquet and out is None:
        raise ValueError("--format parquet needs --out FILE")
    return format or (Format.table if sys.stdout.isatty() else Format.csv)


def _as_text(frame: pd.DataFrame, format: Format) -> str:
    from ..tables.spreadsheet import inert

    if format is Format.json:
        return frame.reset_index().to_json(orient="records", indent=1, force_ascii=False) + "\n"
    return inert(frame).to_csv() if format is Format.csv else frame.to_string() + "\n"


def own_name(frame: pd.DataFrame, column: str, fitted: FittedFile) -> pd.DataFrame:
    """A table whose column of true values is called as the target in the file, where no other column is called so.

    Args:
        frame: The table.
        column: What the column is called so far.
        fitted: The file.
    """
    return frame if fitted.target in frame else frame.rename(columns={column: fitted.target})


def for_people(frame: pd.DataFrame, title: str, widest: int = WIDEST) -> Table:
    """A table for the terminal: numbers to the right and rounded, effects with their sign, no cell too long.

    "because of" is shown whole: its parts add up.

    Args:
        frame: The table; its index is a column.
        title: What stands above it.
        widest: Characters of a cell that are shown.
    """
    import pandas as pd
    from rich.table import Table

    table = Table(title=styled(title), title_justify="left")
    plain = frame.reset_index()
    signed = ["effect" in str(name) or name in CHANGES for name in plain.columns]
    for name in plain.columns:
        number = pd.api.types.is_numeric_dtype(plain[name]) and not pd.api.types.is_bool_dtype(plain[name])
        table.add_column(styled(name), justify="right" if number else "left", overflow="fold")
    for line in plain.itertuples(index=False):
        line = [None if value is pd.NA else value for value in line]
        cells = zip(plain.columns, line, signed, strict=True)
        table.add_row(*(_cell(v, plus, None if name == "because of" else widest) for name, v, plus in cells))
    return table


def _cell(value: object, signed: bool, widest: int | None) -> Text:
    """A value as text that can neither style nor steer the terminal."""
    if value is None:
        return styled("")
    words = (f"{value:+.4g}" if signed else f"{value:.4g}") if isinstance(value, float) else str(value)
    return styled(words if widest is None or len(words) <= widest else words[: widest - 1] + "…")

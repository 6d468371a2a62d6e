"""The corrected file: what was decided, and every other cell as it was."""

from __future__ import annotations

import io

import pandas as pd

from ..tables.reading import SEPARATORS
from ..tables.spreadsheet import inert
from .session import Session


def corrected_file(session: Session, *, exact: bool = False) -> tuple[str, bytes]:
    """The name and the bytes of the session's file with the labels as decided and without the dropped rows.

    It is of the file's own kind. In CSV and TSV, text that a spreadsheet would run as a formula gets an apostrophe
    before it, unless `exact`.
    """
    fitted = session.fitted
    path, suffix, out = fitted.path, fitted.path.suffix.lower(), io.BytesIO()
    if suffix in SEPARATORS:
        separator = SEPARATORS[suffix]
        cells = pd.read_csv(path, sep=separator, encoding=fitted.encoding, dtype=str, na_filter=False)
        table = session.corrected(cells)
        table = table if exact else inert(table)
        table.to_csv(out, sep=separator, encoding=fitted.encoding, index=False)
    else:
        table = session.corrected(fitted.raw).reset_index(drop=True)
        (table.to_parquet if suffix == ".parquet" else table.to_feather)(out)
    return f"{path.stem}.corrected{path.suffix}", out.getvalue()

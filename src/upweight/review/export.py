"""The corrected file: what was decided, and every other cell as it was."""

from __future__ import annotations

import io

import pandas as pd

from ..cli.show import inert
from ..tables.columns import SEPARATORS
from .session import Session


def corrected(session: Session, *, exact: bool = False) -> tuple[str, bytes]:
    """The name and the bytes of the session's file with the labels as decided and without the dropped rows.

    It is of the file's own kind. In CSV and TSV text that a spreadsheet would run as a formula gets an apostrophe
    before it, unless `exact`.
    """
    asked, suffix = session.asked, session.asked.file.suffix.lower()
    out = io.BytesIO()
    if suffix in SEPARATORS:
        separator = SEPARATORS[suffix]
        cells = pd.read_csv(asked.file, sep=separator, encoding=asked.encoding, dtype=str, na_filter=False)
        table = session.corrected(cells)
        table = table if exact else inert(table)
        table.to_csv(out, sep=separator, encoding=asked.encoding, index=False)
    else:
        table = session.corrected(asked.raw).reset_index(drop=True)
        (table.to_parquet if suffix == ".parquet" else table.to_feather)(out)
    return f"{asked.file.stem}.corrected{asked.file.suffix}", out.getvalue()

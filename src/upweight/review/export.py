"""The corrected file: what was decided, and every other cell as it was."""

from __future__ import annotations

import pandas as pd

from .session import Session


def corrected_file(session: Session, *, exact: bool = False) -> tuple[str, bytes]:
    """The name and the bytes of the session's file with the labels as decided and without the dropped rows.

    It is of the file's own kind, and has been read back: what is given out holds these very cells. In text files, cells
    that a spreadsheet would run as a formula get an apostrophe before them, unless `exact`.

    Raises FileError where the file has changed since the review began, or cannot be written so that it reads as it is.
    """
    fitted = session.fitted
    places = pd.DataFrame({fitted.target: range(len(fitted.raw))})  # a label is that of a row that has it
    rows = session.corrected(places)[fitted.target]
    content = fitted.file.corrected(session.file.content(), fitted.target, rows, exact=exact)
    return fitted.file.corrected_name, content

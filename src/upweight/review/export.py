"""The corrected file: what was decided, and every other cell as it was."""

from __future__ import annotations

import numpy as np
import pandas as pd

from .session import Session


def corrected_file(session: Session, *, exact: bool = False) -> tuple[str, bytes]:
    """The name and the bytes of the session's file with the labels as decided and without the dropped rows.

    It is of the file's own kind, and has been read back: what is given out holds these very cells. In text files, cells
    that a spreadsheet would run as a formula get an apostrophe before them, unless `exact`.

    Raises FileError where the file has changed since the review began, or cannot be written so that it reads as it is.
    """
    fitted, places = session.fitted, session.fitted.places
    own = pd.DataFrame({fitted.target: places}, index=places)  # a label is that of a row that has it
    rows = session.corrected(own)[fitted.target]
    left_out = np.setdiff1d(
        np.arange(len(fitted.file.table)), places
    )  # rows without a label stay as they are
    rows = pd.concat([rows, pd.Series(left_out, index=left_out)]).sort_index()
    content = fitted.file.corrected(session.file.content(), fitted.target, rows, exact=exact)
    return fitted.file.corrected_name, content

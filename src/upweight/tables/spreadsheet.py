"""Tables that a spreadsheet may open: text in them must not run as a formula."""

from __future__ import annotations

import pandas as pd

FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""What a cell begins with that a spreadsheet takes for a formula."""


def inert(frame: pd.DataFrame) -> pd.DataFrame:
    """A copy of a table in which text that a spreadsheet would run as a formula has an apostrophe before it.

    Cells, names of rows and names of columns are looked at. Numbers, also those written as text, are no formulas and
    stay as they are.

    >>> inert(pd.DataFrame({"said": ["=1+1", "-3.5", "hello"]}))["said"].tolist()
    ["'=1+1", '-3.5', 'hello']
    """
    found = frame.copy()
    for name in found.columns[[not pd.api.types.is_numeric_dtype(kind) for kind in found.dtypes]]:
        found[name] = found[name].map(_harmless)
    if not pd.api.types.is_numeric_dtype(found.index):
        found.index = found.index.map(_harmless)
    found.columns = found.columns.map(_harmless)
    return found


def _harmless(value: object) -> object:
    if not isinstance(value, str) or not value.startswith(FORMULA):
        return value
    try:
        float(value)
    except ValueError:
        return f"'{value}"
    return value

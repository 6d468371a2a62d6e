"""Tables that a spreadsheet may open: text in them must not run as a formula."""

from __future__ import annotations

import re

import pandas as pd

FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")
"""What a cell begins with that a spreadsheet takes for a formula, full-width signs too."""
NUMBER = re.compile(r"[+-]( ?\d[\d.,' \u00a0\u202f]*%?)?")
"""Numbers as people write them, "-3,5" or "+12 %", and a sign alone."""


def inert(frame: pd.DataFrame) -> pd.DataFrame:
    """A copy of a table in which text that a spreadsheet would run as a formula has an apostrophe before it.

    Cells, names of rows and names of columns are looked at, and what the names of rows are called. Numbers, also those
    written as text, are no formulas and stay as they are.

    >>> inert(pd.DataFrame({"said": ["=1+1", "-3.5", "hello"]}))["said"].tolist()
    ["'=1+1", '-3.5', 'hello']
    """
    found = frame.copy()
    for place, kind in enumerate(found.dtypes):
        if not pd.api.types.is_numeric_dtype(kind):
            found.isetitem(place, _harmless_column(found.iloc[:, place]))
    if not pd.api.types.is_numeric_dtype(found.index):
        found.index = found.index.map(_harmless)
    found.index.names = [_harmless(name) for name in found.index.names]
    found.columns = found.columns.map(_harmless)
    return found


def _harmless_column(column: pd.Series) -> pd.Series:
    """A column of text or of anything, its texts made harmless; most columns hold none that must be."""
    if pd.api.types.is_object_dtype(column):  # `map` would make floats of whole numbers among missing cells
        return pd.Series([_harmless(value) for value in column], column.index, dtype=object)
    if not isinstance(column.dtype, pd.StringDtype):
        return column.map(_harmless)
    begins = column.str.startswith(FORMULA, na=False)
    return column.mask(begins, column[begins].map(_harmless)) if begins.any() else column


def _harmless(value: object) -> object:
    if not isinstance(value, str) or not value.startswith(FORMULA) or NUMBER.fullmatch(value):
        return value
    try:
        float(value)
    except ValueError:
        return f"'{value}"
    return value

"""Which rows of a table are meant: one row by its name, or all of which a condition holds."""

from __future__ import annotations

from collections.abc import Hashable

import numpy as np
import pandas as pd
from jaxtyping import Bool

from .reading import FileError


def row_label(table: pd.DataFrame, row: str) -> Hashable:
    """The label in a table's index of the row that a person means: the word itself, or the number that it is.

    Raises FileError, with the first and the last row's names, where there is no such row.

    >>> row_label(pd.DataFrame({"age": [31, 52]}), "1")
    1
    >>> row_label(pd.DataFrame({"age": [31, 52]}, index=["ann", "bob"]), "bob")
    'bob'
    """
    for label in (row, *([int(row)] if row.lstrip("-").isdigit() else [])):
        if label in table.index:
            return label
    if len(table) == 0:
        raise FileError("no row is left to ask about")
    raise FileError(f"no row {row!r}; they go from {table.index[0]} to {table.index[-1]}")


def fulfilling(table: pd.DataFrame, condition: str) -> Bool[np.ndarray, " n"]:
    """Whether a condition holds of each row of a table: True or False, (n,).

    The condition is the user's own, as pandas queries say it. It sees the columns and nothing else of the program.

    Raises FileError for conditions that cannot be understood, that are not true or false of each row, or that no row
    fulfils.

    >>> fulfilling(
    ...     pd.DataFrame({"age": [31, 52], "town": ["north", "south"]}), "age > 40 and town == 'south'"
    ... )
    array([False,  True])
    """
    try:
        found = table.eval(condition, engine="python", parser="pandas", local_dict={}, global_dict={})
    except Exception as error:  # pandas raises whatever the parser, the operator or a lookup does
        raise FileError(f"the condition {condition!r} cannot be understood: {error}") from error
    mask = np.asarray(found)
    if mask.dtype != bool or mask.shape != (len(table),):
        raise FileError(f"the condition {condition!r} is not true or false of each row")
    if not mask.any():
        raise FileError(f"no row fulfils {condition!r}")
    return mask

"""Columns of the tables of training rows that `Scores` make, found again by those who show them."""

from __future__ import annotations

import numpy as np
import pandas as pd

UNSETTLED = "left to move"
"""The column of tables that marks effects which mean little: the share of the move that is missing."""


def effects(table: pd.DataFrame) -> pd.Series:
    """The column of effects of a table of training rows, whatever the measure is called and stands beside it.

    >>> effects(
    ...     pd.DataFrame({"influence": [1.0], "removal effect on the loss": [-0.5], "steps": [1]})
    ... ).tolist()
    [-0.5]
    """
    return table[next(name for name in table.columns if "effect on the" in name)]


def left_to_move(table: pd.DataFrame) -> pd.Series:
    """The column of a table of training rows that marks effects which mean little; NaN where it has none."""
    return table.get(UNSETTLED, pd.Series(np.nan, table.index))

"""What a column is learned from as: a number, a date, a category, text or images; or why it is left out."""

from __future__ import annotations

import re
from typing import Literal, TypeGuard, get_args

import numpy as np
import pandas as pd

from .cells import nested

Kind = Literal["number", "date", "category", "text", "image"]
"""What a model can learn from a column as."""

IMAGES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp")
WORDS = 4
"""A column of strings with so many words each, on average, is text."""
NAMED = 0.9
"""A column of short strings, or of whole numbers called an id, of which this share is distinct names its rows only."""
CATEGORIES = 20
"""A target of whole numbers with more values than this is a quantity, not a class."""
COUNTED = 5
"""A column of more whole numbers than this, each one more than the last, counts the rows."""

NUMBERED = re.compile(r"(?i:(?:^|[\s_.-])(?:id|ids|nbr|uid|uuid))$|(?<=[a-z])(?:Id|ID)$")
"""How the names of columns end that number rows: "encounter_id", "patient_nbr", "customerID"."""

INDEX = re.compile(r"Unnamed: \d+|__index_level_\d+__")
"""What pandas calls a column without a name, as an index has that was written along with its table."""

ANSWER = re.compile(
    r"is_\w+_issue|label_score|given_label|predicted_label|(predictions|suggestions|annotations|responses)\..*"
)
"""What label tools (cleanlab, Label Studio, Argilla) call their own answers about labels: a model would learn those."""


def kind_of(column: pd.Series) -> str:
    """The kind of a column, or the reason for which it is left out (`is_kind` tells which).

    >>> kind_of(pd.Series([1.5, 2.0])), kind_of(pd.Series(["a", "b", "a"])), kind_of(pd.Series([3, 3]))
    ('number', 'category', 'it is constant')
    """
    present = column.dropna()
    if nested(present):
        return "its cells are lists or mappings, neither numbers nor text: spread them over columns"
    distinct = present.nunique()
    if distinct <= 1:
        return "it is empty" if not len(present) else "it is constant"
    if INDEX.fullmatch(str(column.name)) and (distinct == len(present) or is_whole(present)):
        return "it is an index that was written along with the table"
    if ANSWER.fullmatch(str(column.name)):
        return "it is an answer of a label tool, not a property of the row"
    if pd.api.types.is_bool_dtype(present):
        return "category"
    if pd.api.types.is_numeric_dtype(present):
        counts = present.is_monotonic_increasing and distinct == len(present) and len(present) > COUNTED
        steps = np.diff(present.to_numpy(np.float64)) if counts else np.array([0.0])
        if (steps == 1).all():
            return "it counts the rows"
        names = NUMBERED.search(str(column.name)) and is_whole(present) and _as_names(distinct, len(present))
        return (
            "it numbers the rows, as its name says (--number takes it for a quantity)" if names else "number"
        )
    if pd.api.types.is_datetime64_any_dtype(present) or pd.api.types.is_timedelta64_dtype(present):
        return "date"
    counts = present.value_counts(sort=False)
    different = pd.Series(counts.index.astype(object))
    if not different.map(lambda value: isinstance(value, (str, bool, int, float, np.generic))).all():
        return "its cells are neither numbers nor text"
    return _kind_of_strings(different.astype(str), counts.to_numpy())


def _kind_of_strings(strings: pd.Series, counts: np.ndarray) -> str:
    """The kind of a column of different strings, each of which is there so many times."""
    rows = counts.sum()
    if strings.str.lower().str.endswith(IMAGES).all():
        return "image"
    if (strings.str.count(r"\S+") * counts).sum() >= WORDS * rows:
        return "text"
    if _as_names(len(strings), int(rows)):
        return "almost every row has a value of its own, as names do (--text takes it for text)"
    return "category"


def _as_names(distinct: int, rows: int) -> bool:
    """Whether so many rows have so many different values that these name the rows and say nothing about them."""
    return distinct > NAMED * rows and rows > CATEGORIES


def is_kind(found: str) -> TypeGuard[Kind]:
    """Whether an answer of `kind_of` is a kind, and no reason.

    >>> is_kind("text"), is_kind("it is constant")
    (True, False)
    """
    return found in get_args(Kind)


def is_quantity(y: pd.Series) -> bool:
    """Whether a target is a quantity and no class: numbers that are not whole, or many different ones.

    >>> is_quantity(pd.Series([0, 1, 1])), is_quantity(pd.Series([0.5, 1.0, 2.0]))
    (False, True)
    """
    if pd.api.types.is_bool_dtype(y) or not pd.api.types.is_numeric_dtype(y):
        return False
    return not is_whole(y.dropna()) or y.nunique() > CATEGORIES


def is_whole(column: pd.Series) -> bool:
    """Whether a column holds numbers, and whole ones only.

    >>> is_whole(pd.Series([1.0, 2.0])), is_whole(pd.Series([1.5])), is_whole(pd.Series(["1"]))
    (True, False, False)
    """
    return pd.api.types.is_numeric_dtype(column) and bool((column % 1 == 0).all())

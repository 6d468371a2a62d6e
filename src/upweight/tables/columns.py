"""The columns of a table, understood: which one is asked about, what a model may learn from, and how."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeGuard, get_args

import numpy as np
import pandas as pd

from .reading import FileError, check_column, inside, row_ids

Kind = Literal["number", "category", "text", "image"]
"""What a model can learn from a column as."""

IMAGES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp")
WORDS = 4
"""A column of strings with so many words each, on average, is text."""
NAMED = 0.9
"""A column of short strings of which this share is distinct names its rows and says nothing about them."""
CATEGORIES = 20
"""A target of whole numbers with more values than this is a quantity, not a class."""
COUNTED = 5
"""A column of more whole numbers than this, each one more than the last, counts the rows."""

_FILLED: dict[Kind, str] = {
    "number": "taken as the column's median, with a column that says so",
    "category": "taken as a category of their own",
    "text": "taken as empty",
    "image": "which have no features",
}


@dataclass(frozen=True, eq=False)
class Table:
    """The rows that a model learns from, and what is known about their columns.

    Attributes:
        X: The columns that the model sees, of n rows; the index is the file's row, counted from 0, or its id.
        y: The target (n,), with the same index.
        kinds: What each column of `X` is learned from as.
        notes: What was left out or filled, and why, a sentence each.
    """

    X: pd.DataFrame
    y: pd.Series
    kinds: Mapping[str, Kind]
    notes: tuple[str, ...] = ()

    @property
    def classifies(self) -> bool:
        """Whether the target is a class: anything but many different numbers."""
        return not is_quantity(self.y)

    def columns(self, kind: Kind) -> list[str]:
        """The names of the columns of one kind, in the file's order."""
        return [name for name, its in self.kinds.items() if its == kind]

    def batch(self, other: pd.DataFrame, folder: Path | None = None) -> tuple[pd.DataFrame, pd.Series]:
        """A batch of another table's rows: the columns that the model sees, and the target.

        Args:
            other: Rows (m) with the same columns and perhaps more.
            folder: Where their images are; the current folder by default.

        Returns:
            The inputs (m rows) and targets (m,), with the index of `other`.

        Raises:
            FileError: A column is not there or holds something else, or the target is missing in a row.
        """
        target = str(self.y.name)
        for name in (*self.kinds, target):
            check_column(other, name)
        for name in self.columns("number"):
            if not pd.api.types.is_numeric_dtype(other[name]):
                raise FileError(
                    f"column {name!r} holds numbers in the training file, and something else here"
                )
        X = {name: _prepared(other[name], kind, folder) for name, kind in self.kinds.items()}
        y = _present(other[target])
        return pd.DataFrame(X, index=other.index), y.astype(self.y.dtype if self.classifies else float)


def understood(
    table: pd.DataFrame,
    target: str,
    *,
    text: Sequence[str] = (),
    image: Sequence[str] = (),
    drop: Sequence[str] = (),
    id: str | None = None,
    folder: Path | None = None,
) -> Table:
    """A table's target, and each other column as a number, a category, text, or paths of images.

    Columns that are constant, empty, or name the rows are left out, which the notes say.

    Args:
        table: The file as it was read (n rows).
        target: The column that the model predicts.
        text: Columns that hold text, whatever they look like.
        image: Columns that hold paths of images.
        drop: Columns that the model must not see.
        id: The column that names the rows; otherwise they are counted from 0.
        folder: Where the images are; the current folder by default.

    Raises:
        FileError: A column is not there (the closest names are told), no column is left, two rows have one id; or the
            target has missing values, one class only, or so many different values that it is neither class nor number.

    >>> people = pd.DataFrame(
    ...     {"age": [31.5, 52.0, 18.0], "land": ["here"] * 3, "likes": ["yes", "no", "yes"]}
    ... )
    >>> found = understood(people, "likes")
    >>> found.kinds, found.notes
    ({'age': 'number'}, ('land: left out, it is constant',))
    """
    for name in (target, *text, *image, *drop, *([] if id is None else [id])):
        check_column(table, name)
    if id is not None:
        table = table.set_axis(row_ids(table, id)).drop(columns=id)
    y = _checked_target(table[target])
    notes: list[str] = []
    kinds: dict[str, Kind] = {}
    X: dict[str, pd.Series] = {}
    for name in table.columns.drop([target, *[d for d in drop if d in table.columns]]):
        column = table[name]
        kind = "text" if name in text else "image" if name in image else kind_of(column)
        if not is_kind(kind):
            notes.append(f"{name}: left out, {kind}")
            continue
        kinds[name], X[name] = kind, _prepared(column, kind, folder)
        if missing := int(column.isna().sum()):
            notes.append(f"{name}: {missing:,} missing values, {_FILLED[kind]}")
    if not X:
        raise FileError(f"no column is left to learn from: {'; '.join(notes)}")
    return Table(pd.DataFrame(X, index=table.index), y, kinds, tuple(notes))


def kind_of(column: pd.Series) -> str:
    """The kind of a column, or the reason for which it is left out (`is_kind` tells which).

    >>> kind_of(pd.Series([1.5, 2.0])), kind_of(pd.Series(["a", "b", "a"])), kind_of(pd.Series([3, 3]))
    ('number', 'category', 'it is constant')
    """
    present = column.dropna()
    distinct = present.nunique()
    if distinct <= 1:
        return "it is empty" if not len(present) else "it is constant"
    if pd.api.types.is_bool_dtype(present):
        return "category"
    if pd.api.types.is_numeric_dtype(present):
        counts = present.is_monotonic_increasing and distinct == len(present) and len(present) > COUNTED
        steps = np.diff(present.to_numpy(np.float64)) if counts else np.array([0.0])
        return "it counts the rows" if (steps == 1).all() else "number"
    if pd.api.types.is_datetime64_any_dtype(present) or pd.api.types.is_timedelta64_dtype(present):
        return "dates have no scale of their own: turn it into numbers (a year, an age)"
    if not present.map(lambda value: isinstance(value, (str, bool, int, float, np.generic))).all():
        return "its cells are neither numbers nor text"
    return _kind_of_strings(present.astype(str), distinct)


def _kind_of_strings(strings: pd.Series, distinct: int) -> str:
    if strings.str.lower().str.endswith(IMAGES).all():
        return "image"
    if strings.str.count(r"\S+").mean() >= WORDS:
        return "text"
    if distinct > NAMED * len(strings) and len(strings) > CATEGORIES:
        words = strings[pd.to_numeric(strings, errors="coerce").isna()]
        if 0 < len(words) < (1 - NAMED) * len(strings):
            return (
                f"{len(words)} of its {len(strings)} cells are no numbers, first {words.iloc[0]!r} in row "
                f"{words.index[0]}: empty or repair them, and it is taken as numbers"
            )
        return "almost every row has a value of its own, as names do (--text takes it for text)"
    return "category"


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
    whole = bool((y.dropna() % 1 == 0).all())
    return not whole or y.nunique() > CATEGORIES


def _prepared(column: pd.Series, kind: Kind, folder: Path | None) -> pd.Series:
    if kind == "number":
        return _finite(column)
    if kind == "category":
        return column.map(str, na_action="ignore").fillna("(missing)").astype(object)
    if kind == "text":
        return column.map(str, na_action="ignore").fillna("").astype(object)
    if column.isna().any():
        raise FileError(f"column {column.name!r}: row {column.index[column.isna()][0]} names no image")
    return column.map(lambda name: str(inside(folder or Path(), str(name)))).astype(object)


def _finite(column: pd.Series) -> pd.Series:
    """Numbers in float64, none of them infinite."""
    numbers = column.astype(np.float64)
    bad = column.index[np.isinf(numbers)]
    if len(bad):
        raise FileError(
            f"column {column.name!r} is infinite in {len(bad):,} rows, first in row {bad[0]}: write the number that is "
            "meant there, or leave the cell empty"
        )
    return numbers


def _present(y: pd.Series) -> pd.Series:
    missing = y.index[y.isna()]
    if len(missing):
        raise FileError(
            f"the target {y.name!r} is missing in {len(missing):,} rows, first in row {missing[0]}: remove those rows"
        )
    return y.map({True: "true", False: "false"}).astype(object) if pd.api.types.is_bool_dtype(y) else y


def _checked_target(y: pd.Series) -> pd.Series:
    y = _present(y)
    if is_quantity(y):
        return _finite(y)
    mixed = {type(value).__name__ for value in y.unique()}
    if not pd.api.types.is_numeric_dtype(y) and len(mixed) > 1:
        raise FileError(f"the target {y.name!r} mixes {' and '.join(sorted(mixed))}: make it one of them")
    y = y.astype(object) if not pd.api.types.is_numeric_dtype(y) else y
    counts = y.value_counts()
    if len(counts) < 2:
        raise FileError(f"the target {y.name!r} is {counts.index[0]!r} in every row: nothing to tell apart")
    if len(counts) > max(CATEGORIES, len(y) // 10):
        raise FileError(
            f"the target {y.name!r} has {len(counts):,} different values in {len(y):,} rows: that is no class"
        )
    return y

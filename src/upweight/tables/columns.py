"""The columns of a table, understood: which one is asked about, what a model may learn from, and how."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import numpy as np
import pandas as pd

from .cells import (
    Cells,
    Labels,
    Plain,
    Reader,
    cells_of,
    days,
    decimal_comma,
    has_words,
    marks,
    may_be_read,
    nested,
    read_by,
    read_dates,
    read_numbers,
)
from .kinds import CATEGORIES, Kind, is_kind, is_quantity, is_whole, kind_of
from .reading import FileError, check_column, inside, row_ids

_MEDIAN = "taken as the column's median, with a column that says so"
_FILLED: dict[Kind, str] = {
    "number": _MEDIAN,
    "date": _MEDIAN,
    "category": "taken as a category of their own",
    "text": "taken as empty",
    "image": "which have no features",
}
ALIKE = ("it is constant", "it is empty")
"""Reasons for leaving a column out that ask nothing of the user: columns of one of them are told in one note."""
_CODED = ("%Y%m%d", "%Y")
"""Whole numbers that may be dates where the user says so."""


@dataclass(frozen=True, eq=False)
class Table:
    """The rows that a model learns from, and what is known about their columns.

    Attributes:
        X: The columns that the model sees, of n rows; the index is the file's row, counted from 0, or its id.
        y: The target (n,), with the same index.
        kinds: What each column of `X` is learned from as.
        notes: What was left out or filled, and how cells were read, a sentence each.
        rows: The file's table of these rows (n) with all columns, numbers read as numbers.
        unlabelled: The same of the rows that have no target and were left out.
        readers: How the cells of columns are read, also those of other tables.
        said: What the user says that columns hold.
    """

    X: pd.DataFrame
    y: pd.Series
    kinds: Mapping[str, Kind]
    notes: tuple[str, ...] = ()
    rows: pd.DataFrame = field(default_factory=pd.DataFrame)
    unlabelled: pd.DataFrame = field(default_factory=pd.DataFrame)
    readers: Mapping[str, Reader] = field(default_factory=dict)
    said: Mapping[str, Kind] = field(default_factory=dict)

    @property
    def classifies(self) -> bool:
        """Whether the target is a class: anything but many different numbers, or what the user says."""
        return not is_quantity(self.y) if self._target is None else self._target == "category"

    @property
    def _target(self) -> Kind | None:
        """What the user says that the target is, if anything."""
        return self.said.get(str(self.y.name))

    def columns(self, kind: Kind) -> list[str]:
        """The names of the columns of one kind, in the file's order."""
        return [name for name, its in self.kinds.items() if its == kind]

    def read(self, other: pd.DataFrame) -> pd.DataFrame:
        """Another table with its cells read as this one's were: markers of missing values, amounts, decimal commas.

        Raises FileError for a cell that is no number (or date) in a column of them.
        """
        return other.assign(**{
            name: _reread(other[name], reader, lenient=name in self.said)
            for name, reader in self.readers.items()
            if name in other and has_words(other[name])
        })  # fmt: skip

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
        for name in (*self.kinds, str(self.y.name)):
            check_column(other, name, " in the rows asked about, which the model learned from")
        other = self.read(other)
        for name in self.columns("number"):
            if not pd.api.types.is_numeric_dtype(other[name]):
                raise FileError(
                    f"column {name!r} holds numbers in the training file, and something else here"
                )
        X = {name: _prepared(other[name], kind, folder) for name, kind in self.kinds.items()}
        y = _target(other[str(self.y.name)], self._target)
        return pd.DataFrame(X, index=other.index), y.astype(self.y.dtype if self.classifies else float)


def understood(
    table: pd.DataFrame,
    target: str,
    *,
    text: Sequence[str] = (),
    image: Sequence[str] = (),
    category: Sequence[str] = (),
    number: Sequence[str] = (),
    date: Sequence[str] = (),
    drop: Sequence[str] = (),
    id: str | None = None,
    folder: Path | None = None,
    drop_missing: bool = False,
    plain: bool = False,
    filled: bool = True,
) -> Table:
    """A table's target, and each other column as a number, a date, a category, text, or paths of images.

    What stands for a missing value ("NA", "?") in a column of numbers, dates or labels is missing. Columns that are
    constant, empty, or name the rows are left out. The notes say both.

    Args:
        table: The file as it was read (n rows).
        target: The column that the model predicts.
        text: Columns that hold text, whatever they look like.
        image: Columns that hold paths of images.
        category: Columns that hold categories, also where they are coded as numbers; of the target: classes.
        number: Columns that hold numbers; what is none is missing. Of the target: a quantity.
        date: Columns that hold dates; what is none is missing.
        drop: Columns that the model must not see.
        id: The column that names the rows; otherwise they are counted from 0.
        folder: Where the images are; the current folder by default.
        drop_missing: Whether rows without a target are left out; otherwise they are refused.
        plain: Whether numbers are read as programs write them only, for a model that was fitted elsewhere.
        filled: Whether the model fills missing numbers; trees take them as they are.

    Raises:
        FileError: A column is not there (the closest names are told), no column is left, two rows have one id; or the
            target has missing values, one class only, or so many different values that it is neither class nor number.

    >>> people = pd.DataFrame(
    ...     {"age": ["31", "NA", "18"], "land": ["here"] * 3, "likes": ["yes", "no", "yes"]}
    ... )
    >>> found = understood(people, "likes")
    >>> found.kinds, found.notes[1]
    ({'age': 'number'}, 'land: left out, it is constant')
    """
    said = _said(text=text, image=image, category=category, number=number, date=date)
    for name in (target, *said, *drop, *([] if id is None else [id])):
        check_column(table, name)
    if id is not None:
        table = table.set_axis(row_ids(table, id)).drop(columns=id)
    cells = _cells(table.drop(columns=[d for d in drop if d in table and d != target]), target, said, plain)
    read = {name: found for name, found in cells.items() if not len(found.broken) or name in said}
    table = table.assign(**{name: found.values for name, found in read.items()})
    notes: list[str] = []
    missing = table[target].isna() & drop_missing
    unlabelled = table.loc[missing]
    if len(unlabelled):
        notes.append(f"{len(unlabelled):,} rows without a {target} are left out{_written(read.get(target))}")
        table = table.loc[~missing]
    y = _checked_target(table[target], said.get(target), cells.get(target))
    kinds: dict[str, Kind] = {}
    X: dict[str, pd.Series] = {}
    alike: dict[str, list[str]] = {}
    for name in table.columns.drop([target, *[d for d in drop if d in table.columns]]):
        column, found = table[name], cells.get(name)
        kind = said.get(name) or _left_out(found, column) or kind_of(column)
        if not is_kind(kind):
            if kind in ALIKE:
                alike.setdefault(kind, []).append(name)
            else:
                notes.append(f"{name}: left out, {kind}")
            continue
        kinds[name], X[name] = kind, _prepared(column, kind, folder)
        notes += _notes(name, kind, found, int(column.isna().sum()), name in said, filled)
    notes += [
        f"{', '.join(names)}: left out, {'each because ' * (len(names) > 1)}{why}"
        for why, names in alike.items()
    ]
    if not X:
        raise FileError(f"no column is left to learn from: {'; '.join(notes)}")
    readers: dict[str, Reader] = {name: Plain() for name, kind in kinds.items() if kind == "number"}
    readers |= {name: found.reader for name, found in read.items()}
    return Table(pd.DataFrame(X, index=table.index), y, kinds, tuple(notes), table, unlabelled, readers, said)


def _said(**columns: Sequence[str]) -> dict[str, Kind]:
    """What the user says that columns hold, by their names."""
    said: dict[str, Kind] = {}
    for kind, names in columns.items():
        for name in names:
            if said.setdefault(name, cast(Kind, kind)) != kind:
                raise FileError(f"column {name!r} is said to be {said[name]} and {kind}: say one")
    return said


def _cells(table: pd.DataFrame, target: str, said: Mapping[str, Kind], plain: bool) -> dict[str, Cells]:
    """The cells of columns of words that are numbers, truth values or dates, all or most of them, or said to be."""
    free = [name for name in table if name not in said]
    likely = [name for name in free if may_be_read(table[name], plain=plain)]
    numbers = [name for name, its in table.items() if not has_words(its) or name in likely]
    comma = not plain and decimal_comma(table[numbers])
    found = {name: cells_of(table[name], comma=comma, plain=plain) for name in likely}
    for name, kind in said.items():
        column = table.get(name)
        numbers_already = kind == "number" and column is not None and pd.api.types.is_numeric_dtype(column)
        if (
            kind in ("number", "date")
            and column is not None
            and not _is_dated(column)
            and not numbers_already
        ):
            read = read_dates(column, _CODED) if kind == "date" else read_numbers(column, comma=comma)
            if read.values.isna().all():
                raise FileError(f"column {name!r} is said to be a {kind}, and none of its cells is one")
            found[name] = read
    for name in free:
        column = table[name]
        if found.get(name) is not None or not has_words(column) or nested(column):
            continue
        if column.dropna().map(type).nunique() == 1 and (name == target or (marks(column) and not plain)):
            labels = read_by(Labels(), column)
            # Among categories a marker is one; names of rows and texts are told by what the other cells hold.
            if name == target or kind_of(labels.values) not in ("category", "it is constant"):
                found[name] = labels
    return {name: cells for name, cells in found.items() if cells is not None}


def _is_dated(column: pd.Series) -> bool:
    return pd.api.types.is_datetime64_any_dtype(column) or pd.api.types.is_timedelta64_dtype(column)


def _left_out(found: Cells | None, column: pd.Series) -> str | None:
    """Why a column is left out that holds many different numbers or dates, and a few cells of something else."""
    if found is None or not len(found.broken) or found.values.nunique() <= CATEGORIES or found.codes:
        return None
    return (
        f"{found.odd}: repair or empty them, or take them as missing with --{found.reader.what} {column.name}"
    )


def _notes(name: str, kind: Kind, found: Cells | None, missing: int, said: bool, filled: bool) -> list[str]:
    """What is to be said about a column that the model sees."""
    notes = []
    if found is not None and kind in ("number", "date") and (told := found.reader.told(found.example)):
        notes.append(f"{name}: {told}")
    elif kind == "date":
        notes.append(f"{name}: dates, taken as days since the start of 1970")
    if kind == "number" and found is not None and not found.marks and found.reader == Plain():
        notes.append(f"{name}: numbers written as words, read as numbers")
    if found is not None and len(found.broken):
        notes.append(f"{name}: {found.odd}: " + ("taken as missing" if said else "taken as a category"))
    if missing:
        written = "" if found is None or (len(found.broken) and not said) else found.written
        kept = kind in ("number", "date") and not filled
        notes.append(
            f"{name}: {missing:,} missing values{written}, {'left missing' if kept else _FILLED[kind]}"
        )
    return notes


def _written(found: Cells | None) -> str:
    return "" if found is None else found.written


def _reread(column: pd.Series, reader: Reader, lenient: bool) -> pd.Series:
    """The cells of another table's column as the training file's were read."""
    found = read_by(reader, column)
    if reader.what == "truth value":
        other = set(found.broken)  # another category
        cells = [word if word in other else value for word, value in zip(column, found.values, strict=True)]
        return pd.Series(cells, column.index, dtype=object)
    if len(found.broken) and not lenient:
        raise FileError(
            f"column {column.name!r} holds {reader.what}s in the training file, and something else here: {found.odd}"
        )
    return found.values


def _prepared(column: pd.Series, kind: Kind, folder: Path | None) -> pd.Series:
    if kind == "number":
        return _finite(column)
    if kind == "date":
        return days(column)
    if kind == "category":
        named = column if isinstance(column.dtype, pd.StringDtype) else column.map(_word, na_action="ignore")
        return named.astype(object).fillna("(missing)")
    if kind == "text":
        return column.map(str, na_action="ignore").fillna("").astype(object)
    if column.isna().any():
        raise FileError(f"column {column.name!r}: row {column.index[column.isna()][0]} names no image")
    return column.map(lambda name: str(inside(folder or Path(), str(name)))).astype(object)


def _word(value: object) -> str:
    """A category's name: a whole number without a point, which it has or not as other cells are missing or not."""
    return str(int(value)) if isinstance(value, (float, np.floating)) and value.is_integer() else str(value)


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


def _target(y: pd.Series, kind: Kind | None, cells: Cells | None = None) -> pd.Series:
    """A target without missing values: words, numbers, or the days that dates are."""
    missing = y.index[y.isna()]
    if len(missing):
        words = _written(cells)
        labels = words and cells is not None and cells.reader.what == "label"
        classes = f"; --category {y.name} takes them as classes" if labels else ""
        raise FileError(
            f"the target {y.name!r} is missing in {len(missing):,} rows{words}, first in row {missing[0]}: remove "
            f"those rows, or leave them out with --drop-missing{classes}"
        )
    if kind == "category":
        return y.map(_word).astype(object)
    if _is_dated(y):
        return days(y)
    if pd.api.types.is_bool_dtype(y.infer_objects()):
        return y.map({True: "true", False: "false"}).astype(object)
    return y


def _checked_target(y: pd.Series, kind: Kind | None, cells: Cells | None) -> pd.Series:
    if nested(y):
        raise FileError(f"the target {y.name!r} holds lists or mappings: name a column of labels or numbers")
    if cells is not None and (broken := _left_out(cells, y)) and kind is None:
        raise FileError(f"the target {y.name!r}: {broken} --drop-missing")
    dated, y = _is_dated(y), _target(y, kind, cells)
    if kind in ("number", "date") or dated or (kind is None and is_quantity(y)):
        return _finite(y)
    mixed = {type(value).__name__ for value in y.unique()}
    if not pd.api.types.is_numeric_dtype(y) and len(mixed) > 1:
        raise FileError(f"the target {y.name!r} mixes {' and '.join(sorted(mixed))}: make it one of them")
    y = y.astype(np.int64) if is_whole(y) else y.astype(object)
    counts = y.value_counts()
    if len(counts) < 2:
        only = counts.index.tolist()[0]
        raise FileError(f"the target {y.name!r} is {only!r} in every row: nothing to tell apart")
    if len(counts) > max(CATEGORIES, len(y) // 10):
        raise FileError(
            f"the target {y.name!r} has {len(counts):,} different values in {len(y):,} rows: that is no class"
        )
    return y

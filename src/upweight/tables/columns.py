"""A user's file as a table whose columns are understood: what is asked about, what a model may learn from, and how."""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

Kind = Literal["number", "category", "text", "image"]

IMAGES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp")
SEPARATORS = {".csv": ",", ".tsv": "\t"}
WORDS = 4
"""A column of strings with so many words each, on average, is text."""
NAMED = 0.9
"""A column of short strings of which this share is distinct names its rows and says nothing about them."""
CATEGORIES = 20
"""A target of whole numbers with more values than this is a quantity, not a class."""
LISTED = 5


class FileError(ValueError):
    """A file or a column cannot be used as it is; the message says what to do."""


@dataclass(frozen=True, eq=False)
class Table:
    """`X` (n rows) with the `kinds` of its columns, the target `y`, and what was left out and why (`notes`).

    The index of both is the file's row, counted from 0, or its column `id`.
    """

    X: pd.DataFrame
    y: pd.Series
    kinds: dict[str, Kind]
    notes: tuple[str, ...] = field(default=())

    @property
    def classifies(self) -> bool:
        """Whether the target is a class: anything but many different numbers."""
        return not is_quantity(self.y)

    def batch(self, other: pd.DataFrame, folder: Path | None = None) -> tuple[pd.DataFrame, pd.Series]:
        """The same columns of another file, and its target.

        Raises FileError for columns that are not there or hold something else, and a target with missing values.
        """
        for name in (*self.kinds, str(self.y.name)):
            check_column(other, name)
        wrong = [name for name in self.columns("number") if not pd.api.types.is_numeric_dtype(other[name])]
        if wrong:
            raise FileError(
                f"column {wrong[0]!r} holds numbers in the training file, and something else here"
            )
        X = {name: _prepared(other[name], kind, folder) for name, kind in self.kinds.items()}
        y = _present(other[str(self.y.name)])
        return pd.DataFrame(X, index=other.index), y.astype(self.y.dtype) if self.classifies else y.astype(
            float
        )

    def columns(self, kind: Kind) -> list[str]:
        """The columns of that kind."""
        return [name for name, its in self.kinds.items() if its == kind]


def read(path: str | Path, encoding: str = "utf-8") -> pd.DataFrame:
    """A CSV, TSV, Parquet or Arrow (Feather) file. In text files only an empty cell is missing: "None" is a value.

    Raises FileError for files that are not there, empty, of another kind, broken, or in another encoding.
    """
    path = Path(path)
    kind = path.suffix.lower()
    readers: dict[str, Any] = {
        **{suffix: lambda s=s: _text(path, s, encoding) for suffix, s in SEPARATORS.items()},
        ".parquet": lambda: pd.read_parquet(path),
        ".arrow": lambda: pd.read_feather(path),
        ".feather": lambda: pd.read_feather(path),
    }
    if kind not in readers:
        raise FileError(
            f"{path.name}: cannot read {kind or 'a file without a suffix'}; use {', '.join(readers)}"
        )
    if not path.is_file():
        beside = [p.name for p in path.parent.glob(f"*{kind}")] if path.parent.is_dir() else []
        close = difflib.get_close_matches(path.name, beside, 3)
        raise FileError(f"{path}: no such file" + (f"; did you mean {', '.join(close)}?" if close else ""))
    try:
        table = readers[kind]()
    except ImportError as error:
        raise FileError(f'{path.name}: {kind} files need pyarrow: pip install "upweight[files]"') from error
    except UnicodeDecodeError as error:
        raise FileError(
            f"{path.name}: byte {error.start} of what was being read is not {encoding}: name the file's encoding, for "
            "example --encoding latin-1"
        ) from error
    except (ValueError, OSError, LookupError) as error:  # pandas' own errors are ValueErrors
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise FileError(f"{path.name}: cannot be read: {reason}") from error
    if table.empty:
        raise FileError(f"{path.name}: the file has no rows")
    table.columns = table.columns.map(str)
    if not table.columns.is_unique:
        twice = table.columns[table.columns.duplicated()].tolist()
        raise FileError(f"{path.name}: column {twice[0]!r} is there twice: rename one")
    return table


def _text(path: Path, separator: str, encoding: str) -> pd.DataFrame:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", pd.errors.DtypeWarning)  # mixed columns are looked at by `understood`
        return pd.read_csv(path, sep=separator, encoding=encoding, keep_default_na=False, na_values=[""])


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
    """The target, and each other column as a number, a category, text, or paths of images (relative to `folder`).

    `text` and `image` name columns of that kind, `drop` those to leave out, `id` the one that names the rows. Columns
    that are constant, empty, or name the rows are left out, which `notes` says.

    Raises FileError for columns that are not there (with the closest names), a target with missing values, with one
    class or with a class of one row, duplicate ids, and columns that are of no kind.
    """
    for name in (target, *text, *image, *drop, *([] if id is None else [id])):
        check_column(table, name)
    if id is not None:
        table = table.set_axis(named_by(table, id)).drop(columns=id)
    y = _checked_target(table[target])
    notes: list[str] = []
    kinds: dict[str, Kind] = {}
    X: dict[str, pd.Series] = {}
    for name in table.columns.drop([target, *[d for d in drop if d in table.columns]]):
        column = table[name]
        given: Kind | None = "text" if name in text else "image" if name in image else None
        kind = given or kind_of(column)
        if kind in ("number", "category", "text", "image"):
            kinds[name], X[name] = kind, _prepared(column, kind, folder)  # type: ignore[assignment, arg-type]
            missing = int(column.isna().sum())
            if missing:
                notes.append(f"{name}: {missing:,} missing values, {_FILLED[kinds[name]]}")
        else:
            notes.append(f"{name}: left out, {kind}")
    if not X:
        raise FileError(f"no column is left to learn from: {'; '.join(notes)}")
    return Table(pd.DataFrame(X, index=table.index), y, kinds, tuple(notes))


_FILLED = {
    "number": "taken as the column's median, with a column that says so",
    "category": "taken as a category of their own",
    "text": "taken as empty",
    "image": "which have no features",
}


def named_by(table: pd.DataFrame, id: str) -> pd.Index:
    """The column that names the rows. Raises FileError where it is not there or two rows have the same name."""
    check_column(table, id)
    twice = table[id][table[id].duplicated()]
    if len(twice):
        raise FileError(
            f"ids must be unique: {id} {twice.iloc[0]!r} is there {(table[id] == twice.iloc[0]).sum()} times"
        )
    return pd.Index(table[id])


def check_column(table: pd.DataFrame, name: str) -> None:
    """Raise FileError with the closest names unless the table has the column."""
    if name not in table.columns:
        close = difflib.get_close_matches(name, table.columns, 3, 0.4) or list(table.columns[:LISTED])
        raise FileError(f"no column {name!r}; closest: {', '.join(close)}")


def kind_of(column: pd.Series) -> str:
    """What a column holds, or the reason for which it is left out.

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
        counts = present.is_monotonic_increasing and distinct == len(present) and len(present) > LISTED
        steps = np.diff(present.to_numpy(np.float64)) if counts else np.array([0.0])
        return "it counts the rows" if (steps == 1).all() else "number"
    if pd.api.types.is_datetime64_any_dtype(present) or pd.api.types.is_timedelta64_dtype(present):
        return "dates have no scale of their own: turn it into numbers (a year, an age)"
    if not present.map(lambda value: isinstance(value, (str, bool, int, float, np.generic))).all():
        return "its cells are neither numbers nor text"
    strings = present.astype(str)
    if strings.str.lower().str.endswith(IMAGES).all():
        return "image"
    if strings.str.count(r"\S+").mean() >= WORDS:
        return "text"
    if distinct > NAMED * len(present) and len(present) > CATEGORIES:
        return "almost every row has a value of its own, as names do (--text takes it for text)"
    return "category"


def _prepared(column: pd.Series, kind: Kind, folder: Path | None) -> pd.Series:
    if kind == "number":
        return column.astype(np.float64)
    if kind == "category":
        return column.map(str, na_action="ignore").fillna("(missing)").astype(object)
    if kind == "text":
        return column.map(str, na_action="ignore").fillna("").astype(object)
    if column.isna().any():
        raise FileError(f"column {column.name!r}: row {column.index[column.isna()][0]} names no image")
    return column.map(lambda name: str(inside(folder or Path(), str(name)))).astype(object)


def inside(folder: Path, name: str) -> Path:
    """A file of the folder. Raises FileError for paths that lead out of it, and for files that are not there.

    >>> inside(Path("."), "../secret.png")
    Traceback (most recent call last):
    ...
    upweight.tables.columns.FileError: ../secret.png lies outside the folder of the file that names it
    """
    path = (folder / name).resolve()
    if not path.is_relative_to(folder.resolve()):
        raise FileError(f"{name} lies outside the folder of the file that names it")
    if not path.is_file():
        raise FileError(f"{path}: no such image")
    return path


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
        return y.astype(np.float64)
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


def is_quantity(y: pd.Series) -> bool:
    """Whether a target is a quantity and no class: numbers that are not whole, or many different ones.

    >>> is_quantity(pd.Series([0, 1, 1])), is_quantity(pd.Series([0.5, 1.0, 2.0]))
    (False, True)
    """
    if pd.api.types.is_bool_dtype(y) or not pd.api.types.is_numeric_dtype(y):
        return False
    whole = bool((y.dropna() % 1 == 0).all())
    return not whole or y.nunique() > CATEGORIES

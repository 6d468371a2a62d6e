"""Rows by their names: whatever carries an index is paired by it, or refused."""

from __future__ import annotations

from typing import Any, TypeVar

import numpy as np
import pandas as pd

from .user_terms import Terms, batch_index, row_index

Column = TypeVar("Column")


def paired(values: Column, index: pd.Index | None, what: str, of: str = "the training rows") -> Column:
    """The entries of a Series or DataFrame in the order of rows that have names; anything else as it is.

    A column of a larger table gives the entries of these rows alone.

    Args:
        values: one entry per row, in whatever form.
        index: what the rows are called, or None where they have no names.
        what: what the values are called, for the error.
        of: whose rows these are, likewise.

    Raises:
        ValueError: where some row has no entry of its name, and where names that are not in the same order occur twice.

    >>> paired(pd.Series([1, 2], index=["a", "b"]), pd.Index(["b", "a"]), "weights").tolist()
    [2, 1]
    """
    own = row_index(values)
    if own is None or index is None or own.equals(index):
        return values
    said = f"{what} and {of} are paired by their index"
    if not (own.is_unique and index.is_unique):
        twice = own[own.duplicated()] if index.is_unique else index[index.duplicated()]
        raise ValueError(
            f"{said}, and the name {_word(twice)} occurs twice: bring both into the same order, or give "
            f"{what} without an index (to_numpy())"
        )
    places = own.get_indexer(index)
    if (places < 0).any():
        missing = index[places < 0]
        raise ValueError(
            f"{said}, and {what} has no entry for {len(missing)} of {len(index)} rows, first for the row named "
            f"{_word(missing)}: give it the same index, or none (to_numpy()) to pair it by position"
        )
    return values.iloc[places]  # type: ignore[attr-defined]


def paired_targets(X: Any, y: Any) -> Any:
    """The targets of a batch in the order of its inputs, where both have names. Raises ValueError as `paired` does."""
    return paired(y, row_index(X), "the targets", "the inputs of the batch")


def own_terms(X: Any, y: Any, weights: Any = None) -> Terms:
    """The terms of training data that are numbers as they come: what their rows are called.

    Args:
        X: the training inputs.
        y: their targets.
        weights: their weights, or None.

    Raises:
        ValueError: where targets or weights have the names of X in another order, or others.

    >>> own_terms(pd.DataFrame({"x": [1.0, 2.0]}, index=["a", "b"]), [0, 1]).train_index.tolist()
    ['a', 'b']
    """
    for what, values in (("y", y), ("weights", weights)):
        same_order(values, row_index(X), what)
    return Terms(train_index=batch_index((X, y)))


def by_position(values: Any) -> Any:
    """A column of polars or Arrow, whose rows have no names, as an array; anything else as it is.

    >>> import pyarrow as pa
    >>> by_position(pa.array([True, None])).tolist()
    [True, <NA>]
    """
    if not hasattr(values, "to_pandas") or hasattr(values, "columns"):
        return values
    found = np.asarray(values)
    if found.dtype == object and pd.api.types.infer_dtype(found, skipna=True) == "boolean":
        return pd.array(found, dtype="boolean")  # some are missing
    return found


def same_order(values: Any, index: pd.Index | None, what: str) -> None:
    """Refuse what belongs to the training rows, and has their names in another order: they were fitted by position.

    Args:
        values: one entry per training row, in whatever form; what has no index passes.
        index: what the training rows are called, or None.
        what: what the values are called, for the error.

    Raises:
        ValueError: where both have names, and these differ.

    >>> same_order([1.0, 2.0], pd.Index(["b", "a"]), "y")
    """
    own = row_index(values)
    if own is None or index is None or len(own) != len(index) or own.equals(index):
        return
    other = next(i for i, (a, b) in enumerate(zip(own, index, strict=True)) if not _same(a, b))
    raise ValueError(
        f"{what} and X differ in their index, first in row {other}: {_word(own, other)} in {what}, "
        f"{_word(index, other)} in X. "
        f"A model is fitted by position; give {what}.loc[X.index] if rows of one name belong together (and were fitted "
        f"so), or {what}.to_numpy() if the order is right as it is"
    )


def _same(a: Any, b: Any) -> bool:
    return bool(a == b) or bool(a != a and b != b)


def rows_named(names: pd.Index, n: int, index: pd.Index | None, what: str = "rows") -> np.ndarray:
    """The numbers of training rows by their names.

    Args:
        names: what the rows wanted are called; where training rows have no names, their numbers.
        n: the number of training rows.
        index: what the training rows are called, or None.
        what: what the names are for, in the error.

    Raises:
        ValueError: for names that no training row has, or several.

    >>> rows_named(pd.Index(["c", "a"]), 3, pd.Index(["a", "b", "c"])).tolist()
    [2, 0]
    """
    names = names.to_flat_index()
    if index is None:
        if names.inferred_type != "integer" and len(names):
            raise ValueError(
                f"{what}: the training rows have no names (they came without an index), got {_word(names)}: give row "
                "numbers or a mask"
            )
        return names.to_numpy(np.int64)
    places = index.get_indexer_for(names)
    if (places < 0).any():
        unknown = names[~names.isin(index)]
        raise ValueError(
            f"{what}: no training row is called {_word(unknown)}; they are called {_some(index)}"
        )
    if len(places) != len(names):
        twice = index[index.isin(names) & index.duplicated()]
        raise ValueError(
            f"{what}: several training rows are called {_word(twice)}: give their numbers as a tensor of torch, "
            "or a mask"
        )
    return places


def not_ambiguous(rows: np.ndarray, index: pd.Index | None, what: str) -> None:
    """Refuse row numbers that may as well be names: whole numbers by which other training rows are called.

    Args:
        rows: whole numbers that the user gave.
        index: what the training rows are called, or None.
        what: what they are for, in the error.

    Raises:
        ValueError: naming both readings of the first such number.

    >>> not_ambiguous(np.array([0, 1]), pd.RangeIndex(3), "group 0")
    """
    if index is None or index.equals(pd.RangeIndex(len(index))):
        return
    places = np.flatnonzero(index.isin(rows))
    elsewhere = places[index[places] != places]
    if len(elsewhere):
        name = index[elsewhere[0]]
        first = f", called {_word(index, int(name))}," if 0 <= int(name) < len(index) else ""
        raise ValueError(
            f"{what}: {int(name)} is the number of one training row{first} and the name of another, number "
            f"{elsewhere[0]}. Give names as a pandas Index (table.index[:3], groupby(...).groups), row numbers as a "
            "tensor of torch or by their names, X.index[[...]]; a mask of booleans is always clear"
        )


def _word(index: pd.Index, i: int = 0) -> str:
    return repr(index.tolist()[i])


def _some(index: pd.Index) -> str:
    return ", ".join(map(repr, index[:3].tolist())) + (", ..." if len(index) > 3 else "")


def check_edit(old: pd.Index | None, new: pd.Index | None) -> None:
    """Refuse replacements that have the names of the examples they replace in another order: rows are replaced in turn.

    Args:
        old: the names of the examples as they are, or None.
        new: those of what is put in their place, likewise; other names than the old ones are taken as they stand.

    Raises:
        ValueError: for the same names in another order.
    """
    if old is None or new is None or old.equals(new) or not new.isin(old).any():
        return
    raise ValueError(
        f"`before` and `after` have the same rows in another order ({old[:3].tolist()}, {new[:3].tolist()}, ...): give "
        "`after` the order of `before`, as in after.loc[before.index]"
    )


def called(rows: np.ndarray, ids: pd.Index | None) -> pd.Index:
    """Row numbers as the names of the rows, or themselves where these have none.

    >>> called(np.array([1, 0]), pd.Index(["a", "b"])).tolist()
    ['b', 'a']
    """
    return pd.Index(rows) if ids is None else ids.take(rows)


def as_json(ids: pd.Index | None) -> list[int | float | str] | None:
    """Names as JSON has them: what is neither a number nor a string (a date, say) is its text.

    >>> as_json(pd.Index([1, "a"]))
    [1, 'a']
    """
    if ids is None:
        return None
    return [i if isinstance(i, (int, float, str)) else str(i) for i in ids.tolist()]

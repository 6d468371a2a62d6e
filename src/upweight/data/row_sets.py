"""Sets of training rows, in whatever form a user names them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Int

from ..types import Tensor, as_tensor
from .names import by_position, not_ambiguous, paired, rows_named
from .user_terms import row_index

MISSING = "(missing)"
"""The group of rows whose group is missing."""


def as_sets(groups: Any, n: int, index: pd.Index | None = None) -> tuple[pd.Index, list[Int[Tensor, " _"]]]:
    """Names and rows of sets of training rows, checked.

    Args:
        groups: what `row_numbers` takes, which is one set; a list of these, which gives several; a mapping, which names
            them; a column (n,) of strings, categories, numbers or a pandas Series, which makes one set of each of its
            values, and one called "(missing)" of the rows that have none. A Series is paired by its index.
        n: the number of training rows.
        index: what the training rows are called, or None where they have no names.

    Returns:
        The names, an index called "group", and the row numbers of each set.

    Raises:
        ValueError: for sets that are empty, hold unknown or repeated rows, or everything, and for whole numbers that
            may be numbers or names.

    >>> as_sets({"a": [0, 2], "b": [1]}, 4)[0].tolist(), as_sets(["x", "y", "x"], 3)[1]
    (['a', 'b'], [tensor([0, 2]), tensor([1])])
    """
    groups = by_position(groups)
    if isinstance(groups, Mapping):
        names = pd.Index(list(groups), tupleize_cols=False)
        parts = [row_numbers(part, n, index, f"group {name!r}") for name, part in groups.items()]
    elif _is_column(groups, n, index):
        names, parts = _of_column(groups, n, index)
    elif isinstance(groups, Sequence) and len(groups) and np.ndim(groups[0]) > 0:
        names = pd.RangeIndex(len(groups))
        parts = [row_numbers(part, n, index, f"group {i}") for i, part in enumerate(groups)]
    else:
        names, parts = pd.RangeIndex(1), [row_numbers(groups, n, index, "group 0")]
    for name, rows in zip(names, parts, strict=True):
        _check_set(name, rows, n)
    return names.rename("group"), parts


def row_numbers(rows: Any, n: int, index: pd.Index | None = None, what: str = "rows") -> Int[Tensor, " k"]:
    """The numbers of some training rows, named in any way; not yet looked at for repetitions and their range.

    Args:
        rows: row numbers, as a list, an array or a tensor; a mask (n,) of booleans, where a Series is paired by its
            index; names, as a pandas Index (`table.index[:3]`) or strings.
        n: the number of training rows.
        index: what the training rows are called, or None where they have no names.
        what: what the rows are for, in the error.

    Raises:
        ValueError: for anything else, and for whole numbers that may be row numbers or names.

    >>> row_numbers(pd.Index(["c", "a"]), 3, pd.Index(["a", "b", "c"])), row_numbers([2, 0], 3)
    (tensor([2, 0]), tensor([2, 0]))
    """
    rows = by_position(rows)
    if _is_mask(rows):
        mask = as_tensor(_mask(paired(_numbered(rows, n, index), index, "a mask")))
        if mask.shape != (n,):
            raise ValueError(f"a mask of training rows must have shape ({n},), got {tuple(mask.shape)}")
        return mask.nonzero()[:, 0]
    if isinstance(rows, (pd.DataFrame, pd.Series)):
        raise ValueError(
            f"{what}: a {type(rows).__name__} may mean its rows or what stands in them; give its .index for the rows "
            "that it names, a column of groups (a Series) for one set of each value, or groupby([...]).groups for "
            "groups by several columns"
        )
    if isinstance(rows, pd.Index):
        return as_tensor(rows_named(rows, n, index, what))
    if not isinstance(rows, torch.Tensor):
        array = np.asarray(rows)
        if array.dtype.kind in "OUS":
            return as_tensor(rows_named(pd.Index(array.ravel(), tupleize_cols=False), n, index, what))
        if array.dtype.kind in "iu":
            not_ambiguous(array, index, what)
    numbers = as_tensor(rows)
    if numbers.ndim != 1 or (len(numbers) and numbers.is_floating_point()):
        raise ValueError(
            f"a set of training rows must be a list of row numbers or a mask, got {numbers.dtype} of shape "
            f"{tuple(numbers.shape)}"
        )
    return numbers.long()


def _is_mask(rows: Any) -> bool:
    """Whether it holds booleans: of NumPy, torch, Arrow or pandas, where some may be missing."""
    if isinstance(rows, torch.Tensor):
        return rows.dtype == torch.bool
    if isinstance(rows, pd.Series) and rows.dtype == np.dtype(object):
        return pd.api.types.infer_dtype(rows, skipna=True) == "boolean"
    dtype = getattr(rows, "dtype", None)
    if dtype is not None and dtype != np.dtype(object):
        return bool(pd.api.types.is_bool_dtype(dtype))
    flat = dtype is not None or (isinstance(rows, Sequence) and not isinstance(rows, str))
    return flat and len(rows) > 0 and all(isinstance(value, (bool, np.bool_)) for value in rows)


def _mask(rows: Any) -> Any:
    """A mask as an array of plain booleans. Raises ValueError where some are missing."""
    if isinstance(rows, torch.Tensor):
        return rows
    missing = np.asarray(pd.isna(rows))
    if missing.any():
        raise ValueError(
            f"a mask of training rows says neither yes nor no of {int(missing.sum())} rows, first of row number "
            f"{int(missing.argmax())}: fill them, as in mask.fillna(False)"
        )
    return np.asarray(rows, dtype=bool)


def _numbered(values: Any, n: int, index: pd.Index | None) -> Any:
    """What has an index although the training rows have none: refused where it holds their numbers in another order."""
    own = row_index(values)
    if index is None and own is not None and own.inferred_type == "integer" and len(own) == n:
        numbers = pd.RangeIndex(n)
        if not own.equals(numbers) and own.sort_values().equals(numbers):
            raise ValueError(
                "the training rows came without an index and have the numbers 0 to "
                f"{n - 1}, which this Series has as names in another order: give it by to_numpy() if its order is that "
                "of the training rows, or by sort_index() if its index is their numbers"
            )
    return values


def _is_column(groups: Any, n: int, index: pd.Index | None) -> bool:
    """Whether it names the group of each row."""
    if _is_mask(groups) or isinstance(groups, (str, pd.Index, pd.DataFrame)):
        return False
    if isinstance(groups, (pd.Series, pd.Categorical)):
        return True
    if isinstance(groups, Sequence) and any(np.ndim(part) for part in groups):
        return False
    values = groups.detach().cpu().numpy() if isinstance(groups, torch.Tensor) else np.asarray(groups)
    if values.dtype.kind in "OUSMm":
        # Names of rows are fewer than rows.
        return not (index is not None and len(values) != n and pd.Index(values).isin(index).all())
    # So many numbers cannot be row numbers: these would be all rows, or some twice.
    return values.shape == (n,) and len(np.unique(values)) < n


def _of_column(groups: Any, n: int, index: pd.Index | None) -> tuple[pd.Index, list[Tensor]]:
    """One set of each value of a column (n,), and one of the rows that have none."""
    values = paired(_numbered(groups, n, index), index, "a column of groups")
    column = pd.Series(np.asarray(values))
    if len(column) != n:
        raise ValueError(f"a column of groups must have one entry per training row ({n}), got {len(column)}")
    found = dict(column.groupby(column, observed=True).indices)
    missing = np.flatnonzero(column.isna())
    if len(missing):
        found[MISSING] = np.union1d(found.get(MISSING, missing), missing)
    names = pd.Index(list(found), tupleize_cols=False)
    return names, [as_tensor(rows) for rows in found.values()]


def _check_set(name: Any, rows: Tensor, n: int) -> None:
    if not len(rows):
        raise ValueError(f"group {name!r} is empty: nothing would be removed")
    if int(rows.min()) < 0 or int(rows.max()) >= n:
        bad = rows[(rows < 0) | (rows >= n)][0]
        raise ValueError(f"group {name!r} has the training row {int(bad)}; rows are 0 to {n - 1}")
    if len(rows.unique()) < len(rows):
        raise ValueError(f"group {name!r} names a training row twice")
    if len(rows) == n:
        raise ValueError(f"group {name!r} is the whole training set: nothing would be left to train on")

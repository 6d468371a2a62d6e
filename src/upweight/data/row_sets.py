"""Sets of training rows, in whatever form a user names them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Int

from ..types import Tensor, as_tensor


def as_sets(groups: Any, n: int) -> tuple[pd.Index, list[Int[Tensor, " _"]]]:
    """Names and rows of sets of training rows, checked.

    Args:
        groups: a flat list or tensor of row numbers or a mask (n,) of booleans, which are one set; a list of lists,
            which gives several; a mapping, which names them; a column (n,) of strings, categories or a pandas Series,
            which makes one set of each of its values.
        n: the number of training rows.

    Returns:
        The names, an index called "group", and the row numbers of each set.

    Raises:
        ValueError: for sets that are empty, hold unknown or repeated rows, or everything.

    >>> as_sets({"a": [0, 2], "b": [1]}, 4)[0].tolist(), as_sets(["x", "y", "x"], 3)[1]
    (['a', 'b'], [tensor([0, 2]), tensor([1])])
    """
    if isinstance(groups, Mapping):
        names, parts = pd.Index(list(groups)), [_rows(part, n) for part in groups.values()]
    elif _is_column(groups):
        column = pd.Series(np.asarray(groups))
        if len(column) != n:
            raise ValueError(
                f"a column of groups must have one entry per training row ({n}), got {len(column)}"
            )
        found = column.groupby(column, observed=True).indices
        names, parts = pd.Index(list(found)), [torch.as_tensor(rows) for rows in found.values()]
    elif isinstance(groups, Sequence) and len(groups) and np.ndim(groups[0]) > 0:
        names, parts = pd.RangeIndex(len(groups)), [_rows(part, n) for part in groups]
    else:
        names, parts = pd.RangeIndex(1), [_rows(groups, n)]
    for name, rows in zip(names, parts, strict=True):
        _check_set(name, rows, n)
    return names.rename("group"), parts


def _is_column(groups: Any) -> bool:
    if isinstance(groups, pd.Series):
        return groups.dtype != bool
    if isinstance(groups, (str, torch.Tensor)):
        return False
    ragged = isinstance(groups, Sequence) and any(np.ndim(part) for part in groups)
    return not ragged and np.asarray(groups).dtype.kind in "OUS"


def _rows(part: Any, n: int) -> Tensor:
    rows = as_tensor(part)
    if rows.dtype == torch.bool:
        if rows.shape != (n,):
            raise ValueError(f"a mask of training rows must have shape ({n},), got {tuple(rows.shape)}")
        return rows.nonzero()[:, 0]
    if rows.ndim != 1 or (len(rows) and rows.is_floating_point()):
        raise ValueError(
            f"a set of training rows must be a list of row numbers or a mask, got {rows.dtype} of shape "
            f"{tuple(rows.shape)}"
        )
    return rows.long()


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

"""A problem in its user's own terms: how their data become numbers, and what rows, columns and classes are called."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd
from torch import nn
from torch.utils.data import DataLoader

from ..types import Tensor
from .loaders import drawn


@dataclass(frozen=True, eq=False)
class Terms:
    """What a problem knows about the data as its user has them. Nothing here changes an answer.

    `prepare(inputs, targets)` turns a batch of the user's into what the model computes with; None: they already are.
    `network` is a frozen network: the model computes with its features, and input derivatives go back through it.
    `feature_names` are the columns after that, `train_index` the ids of the training rows, `classes` the class names by
    their number. `notes` say in words what was held fixed or approximated.

    >>> import torch
    >>> Terms(train_index=pd.Index(["a", "b", "c"])).take(torch.tensor([2, 0])).train_index.tolist()
    ['c', 'a']
    """

    prepare: Callable[[Any, Any], tuple[Any, Any]] | None = None
    network: nn.Module | None = None
    feature_names: tuple[str, ...] | None = None
    train_index: pd.Index | None = None
    classes: tuple[Any, ...] | None = None
    notes: tuple[str, ...] = ()

    def take(self, index: Tensor) -> Terms:
        """The terms of a problem on some of the training rows: their ids are picked, everything else stays.

        `index` (b,) are row numbers, in the order of the new problem's rows.
        """
        if self.train_index is None:
            return self
        return replace(self, train_index=self.train_index.take(index.numpy()))


def row_index(rows: Any) -> pd.Index | None:
    """The row ids of a DataFrame or Series (levels become tuples), or None where rows have no names.

    >>> row_index(pd.Series([1.0, 2.0], index=["a", "b"])).tolist()
    ['a', 'b']
    """
    return rows.index.to_flat_index() if isinstance(rows, (pd.DataFrame, pd.Series)) else None


def batch_index(batch: Any) -> pd.Index | None:
    """The row ids of a batch `(inputs, targets)`, from whichever of the two is a DataFrame or Series, inputs first.

    None for arrays and tensors, which have no names, and for mappings; the numbers in its data set for a DataLoader
    whose sampler draws some rows of it. Tables of scores show these ids.

    >>> import torch
    >>> batch_index((torch.eye(2).numpy(), pd.Series([0, 1], index=["a", "b"]))).tolist()
    ['a', 'b']
    """
    if isinstance(batch, DataLoader):
        rows = drawn(batch, "the batch").rows
        return None if rows is None else pd.Index(rows.tolist())
    if not isinstance(batch, (tuple, list)):
        return None
    return next((index for part in batch if (index := row_index(part)) is not None), None)

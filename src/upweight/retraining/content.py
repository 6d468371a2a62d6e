"""The content of data in any form that users have, as tensors whose bytes are hashed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy import sparse

from ..types import Tensor, as_tensor


def content_of(values: Any) -> list[Tensor]:
    """Tensors that are equal where rows, columns or targets are: numbers as they are, 64-bit hashes of anything else.

    >>> found = content_of(pd.Series(["a", "a", "b"]))[0]
    >>> bool(found[0] == found[1]), bool(found[0] == found[2])
    (True, False)
    """
    if values is None:
        return []
    if isinstance(values, torch.Tensor):
        return [values]
    if sparse.issparse(values):
        rows = values.tocsr()
        return [as_tensor(part) for part in (rows.data, rows.indices, rows.indptr)]
    if hasattr(values, "to_pandas"):
        values = values.to_pandas()
    if isinstance(values, (pd.DataFrame, pd.Series)):
        names = list(map(str, values.columns)) if isinstance(values, pd.DataFrame) else []
        return [*(content_of(np.array(names, dtype=object)) if names else []), _hashes(values)]
    array = np.asarray(values)
    if array.dtype.kind in "biuf":
        return [as_tensor(np.ascontiguousarray(array))]
    return [_hashes(pd.Series(array.astype(object).ravel()))]


def _hashes(values: pd.DataFrame | pd.Series) -> Tensor:
    """A hash of each row."""
    try:
        found = pd.util.hash_pandas_object(values, index=False)
    except TypeError:  # cells that are lists, say
        found = pd.util.hash_pandas_object(values.astype(str), index=False)
    return as_tensor(found.to_numpy().astype(np.uint64).view(np.int64))

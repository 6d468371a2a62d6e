"""Names for what is passed around, and the letters that stand in shapes.

n train examples, m test examples, p parameters, k right-hand sides, b examples of a batch, c outputs, d features.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, TypeAlias

import numpy as np
import pandas as pd
import torch

Tensor = torch.Tensor

ArrayLike: TypeAlias = (
    torch.Tensor | np.ndarray | np.generic | pd.DataFrame | pd.Series | pd.Index | Sequence[Any] | float | int
)
"""Numbers as users have them: a tensor, an array, a table or column of pandas, a (nested) list, one number."""


def as_tensor(values: ArrayLike) -> Tensor:
    """A detached tensor of numbers as users have them, which shares their memory wherever that can be.

    Changes made later through the array are thus seen in the tensor. Lists and read-only arrays, as pandas gives them,
    are copied.

    >>> as_tensor([1, 2])
    tensor([1, 2])
    """
    if isinstance(values, torch.Tensor):
        return values.detach()
    array = np.asarray(values)
    return torch.from_numpy(array if array.flags.writeable else array.copy())


def wide(dtype: torch.dtype) -> torch.dtype:
    """The precision that vectors have where products are rounded to `dtype`: `dtype` itself, but at least float32.

    A product in bfloat16 reads half the bytes; kept in bfloat16, sums of its results would lose all digits.

    >>> wide(torch.bfloat16)
    torch.float32
    """
    return torch.promote_types(dtype, torch.float32)


Params: TypeAlias = dict[str, torch.Tensor]
"""Parameters by name, as `torch.nn.Module.named_parameters` gives them."""

Batch: TypeAlias = tuple[Any, Any] | list[Any] | Mapping[str, Any]
"""`(inputs, targets)`, or a mapping for models that take one."""

Keep: TypeAlias = Literal["mean", "total"]
"""What a refit keeps: the penalty on the mean loss ("mean", the paper) or on the total ("total", scikit-learn)."""

Operator: TypeAlias = Callable[[torch.Tensor], torch.Tensor]
"""A symmetric matrix as a function: rows (k, p) -> rows (k, p)."""

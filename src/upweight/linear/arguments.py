"""What a linear problem is made of, checked: coefficients, intercepts and targets in whatever form they come."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float

from ..losses import LinearLoss
from ..types import Tensor, as_tensor
from .output_map import OutputMap


def packed(coef: Any, intercept: Any, d: int) -> tuple[Float[Tensor, " p"], OutputMap]:
    """Coefficients and intercepts as flat parameters, checked, and how these become outputs.

    Args:
        coef: (c, d) or (d,).
        intercept: (c,) or None.
        d: columns of X.

    Raises:
        ValueError: for shapes that do not fit and numbers that are not finite.
    """
    coef = as_tensor(coef).double()
    coef = coef.reshape(1, -1) if coef.ndim == 1 else coef
    if coef.ndim != 2:
        raise ValueError(f"coef must have shape (c, d) or (d,), got {tuple(coef.shape)}")
    if coef.shape[1] != d:
        raise ValueError(f"coef has {coef.shape[1]} columns, X has {d}")
    parts = [coef.flatten()]
    if intercept is not None:
        parts.append(as_tensor(intercept).double().flatten())
        if len(parts[1]) != len(coef):
            raise ValueError(f"intercept has {len(parts[1])} entries, coef has {len(coef)} rows")
    theta = torch.cat(parts)
    if not theta.isfinite().all():
        raise ValueError(f"coef or intercept has a NaN or infinity, first at entry {first_bad(theta)}")
    return theta, OutputMap(len(coef), d, intercept is not None)


def encoded(loss: LinearLoss, y: Any, count: int, c: int) -> Tensor:
    """Targets as the loss wants them, checked.

    Args:
        loss: the loss of a model with c outputs.
        y: targets as the user has them.
        count: how many examples there are.
        c: outputs per example.

    Raises:
        ValueError: for another number of targets, NaN or infinity, and what the loss refuses.
    """
    targets = as_tensor(y)
    if targets.ndim == 0 or len(targets) != count:
        raise ValueError(f"X has {count} examples, y has {len(targets) if targets.ndim else 0}")
    if targets.is_floating_point() and not targets.isfinite().all():
        raise ValueError(f"y has a NaN or infinity, first in example {first_bad(targets)}")
    return loss.encode(targets, c)


def as_many(y: Any, count: int) -> Tensor:
    """Targets as a tensor, one per example."""
    targets = as_tensor(y)
    if targets.ndim == 0 or len(targets) != count:
        raise ValueError(f"X has {count} examples, y has {len(targets) if targets.ndim else 0}")
    return targets


def first_bad(values: Tensor) -> int:
    """The place of the first NaN or infinity."""
    return int((~values.isfinite()).flatten().nonzero()[0, 0])

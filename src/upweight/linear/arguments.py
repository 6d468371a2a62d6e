"""Checks of what a linear problem is made of: coefficients, intercepts and targets, in whatever form they come."""

from __future__ import annotations

import math
from typing import Any

import torch
from jaxtyping import Float

from ..outputs import first_not_finite
from ..penalty import Penalty
from ..types import Keep, Tensor, as_tensor
from .output_map import OutputMap


def packed(coef: Any, intercept: Any, d: int) -> tuple[Float[Tensor, " p"], OutputMap]:
    """Coefficients and intercepts as one flat vector theta in float64, checked, and the map from theta to outputs.

    Args:
        coef: the coefficients, (c, d), or (d,) for one output; an array, tensor or list.
        intercept: the intercepts (c,), or None for a model without.
        d: the number of columns of X.

    Returns:
        Theta (p,), which is coef row by row and then the intercepts, and its `OutputMap`.

    Raises:
        ValueError: for shapes that do not fit X or each other, and for NaN or infinity.
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
        raise ValueError(f"coef or intercept has a NaN or infinity, first at entry {first_not_finite(theta)}")
    return theta, OutputMap(len(coef), d, intercept is not None)


def penalised(
    strength: tuple[Any, float], theta: Tensor, to_outputs: OutputMap, keep: Keep, slope: Any = None
) -> Penalty:
    """The penalty on coefficients and intercepts.

    Args:
        strength: l2, a number for all coefficients or one for every parameter (p,), and l2 on the intercepts where that
            is a number.
        theta: the parameters (p,).
        to_outputs: which of them are intercepts.
        keep: what of the penalty a retraining without some examples keeps.
        slope: that of an l1 penalty (p,), or None.

    Raises:
        ValueError: for a negative or infinite strength, and where both say something of the intercepts.
    """
    l2, l2_intercept = strength
    penalty, each = Penalty.of(l2, theta, keep, slope), torch.as_tensor(l2).ndim == 1
    if not (math.isfinite(l2_intercept) and l2_intercept >= 0):
        raise ValueError(f"l2_intercept must be >= 0 and finite, got {l2_intercept}")
    if each and l2_intercept != 0:
        raise ValueError("l2 per parameter already covers the intercept; leave l2_intercept out")
    if to_outputs.intercept and not each:
        penalty.l2[to_outputs.c * to_outputs.d :] = l2_intercept
    return penalty

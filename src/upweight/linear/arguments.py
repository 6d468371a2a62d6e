"""Checks of what a linear problem is made of: coefficients, intercepts and targets, in whatever form they come."""

from __future__ import annotations

import math
from typing import Any

import torch
from jaxtyping import Float

from ..losses import LinearLoss
from ..penalty import Penalty
from ..runtime.described import described
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


def encoded(loss: LinearLoss, y: Any, count: int, c: int) -> Tensor:
    """Targets in the form that the loss computes with (classes 0..c-1, signs or numbers), checked.

    Args:
        loss: the loss of a model with c outputs.
        y: the targets as the user has them, one per example.
        count: the number of examples.
        c: the number of outputs per example.

    Returns:
        A tensor (n,) or (n, c), as `LinearLoss.encode` documents it.

    Raises:
        ValueError: for another number of targets, NaN or infinity, and for what the loss refuses.
    """
    targets = one_per_example(y, count)
    if targets.is_floating_point() and not targets.isfinite().all():
        raise ValueError(f"y has a NaN or infinity, first in example {first_not_finite(targets)}")
    return loss.encode(targets, c)


def one_per_example(y: Any, count: int) -> Tensor:
    """Targets as a tensor whose first dimension is the examples; nothing else about them is checked or changed.

    Raises ValueError, naming both numbers, where there are more or fewer targets than `count` examples.
    """
    targets = as_tensor(y)
    if targets.ndim == 0 or len(targets) != count:
        raise ValueError(f"X has {count} examples, y has {len(targets) if targets.ndim else 0}")
    return targets


def first_not_finite(values: Tensor) -> int:
    """The place of the first NaN or infinity among the numbers of a tensor, row by row; there must be one."""
    return int((~values.isfinite()).flatten().nonzero()[0, 0])


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


def in_bytes(loss: LinearLoss, class_weights: Tensor | None = None) -> Tensor:
    """A loss by its class, settings and class weights as bytes: what a fingerprint covers of it."""
    settings = repr(described(loss))
    settings += "" if class_weights is None else repr(class_weights.tolist())
    return torch.tensor(list(settings.encode()), dtype=torch.uint8)

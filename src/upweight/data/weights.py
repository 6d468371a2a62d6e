"""Weights of training examples and parameters to be put in place of others, checked."""

from __future__ import annotations

import torch

from ..types import ArrayLike, Tensor, as_tensor


def check_theta(theta: Tensor, before: Tensor) -> Tensor:
    """New parameters (p,) for a problem, in the precision and on the device of the earlier ones; a copy of the user's.

    Args:
        theta: the new parameters.
        before: those of the problem (p,).

    Raises:
        ValueError: for another shape.
    """
    if theta.shape != before.shape:
        raise ValueError(f"theta must have shape {tuple(before.shape)}, got {tuple(theta.shape)}")
    return theta.detach().to(before).clone()


def check_weights(weights: ArrayLike | None, n: int) -> Tensor:
    """The weights w_i of n training examples, (n,) in float64: a copy, so that later edits of the user's change none.

    Args:
        weights: one number per example, finite and >= 0, not all 0; None for all 1.
        n: the number of training examples.

    Raises:
        ValueError: for another shape, a negative or infinite weight, or nothing but zeros.

    >>> check_weights([2, 0, 1], 3)
    tensor([2., 0., 1.], dtype=torch.float64)
    """
    if weights is None:
        return torch.ones(n, dtype=torch.float64)
    w = as_tensor(weights).to(torch.float64, copy=True)
    if w.shape != (n,):
        raise ValueError(f"weights must have shape ({n},), got {tuple(w.shape)}")
    if not bool((w >= 0).all() and w.isfinite().all()):
        raise ValueError("weights must be finite and >= 0")
    if not bool(w.any()):
        raise ValueError("weights are all zero: nothing was trained on")
    return w

"""Weights of training examples and parameters to be put in place of others, checked."""

from __future__ import annotations

from typing import Any

import torch

from ..types import Tensor, as_tensor


def check_theta(theta: Tensor, before: Tensor) -> Tensor:
    """Parameters (p,) in the precision of the earlier ones. Raises ValueError for another shape."""
    if theta.shape != before.shape:
        raise ValueError(f"theta must have shape {tuple(before.shape)}, got {tuple(theta.shape)}")
    return theta.detach().to(before).clone()


def check_weights(weights: Any, n: int) -> Tensor:
    """Per-example weights (n,), finite and >= 0, or ones; a copy of the user's."""
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

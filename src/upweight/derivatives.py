"""Functions of one example, taken over a batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from .types import Tensor


def per_example(function: Callable[[Any, Any], Tensor], outputs: Tensor, targets: Tensor) -> Tensor:
    """function(outputs, targets) of every example, each as a batch of one: (b, ...), (b, ...) -> (b,).

    vmap where the function allows it, else one example after the other.
    """

    def one(output: Tensor, target: Tensor) -> Tensor:
        value = function(output[None], target[None])
        if value.numel() != 1:
            raise ValueError(
                f"a loss or measure must give one number per example, got shape {tuple(value.shape)} for one example"
            )
        return value.reshape(())

    try:
        return torch.vmap(one)(outputs, targets)
    except RuntimeError:  # an operation that cannot be vmapped, or control flow on values
        return torch.stack([one(output, target) for output, target in zip(outputs, targets, strict=True)])

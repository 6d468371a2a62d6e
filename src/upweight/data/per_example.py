"""A function of batches, taken for every example by itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from torch.func import vmap

from ..runtime.fallback import attempt
from ..types import Tensor
from .examples import batched, examples

Loss: TypeAlias = Callable[[Any, Any], Tensor]
"""`loss(outputs, targets)`, of a batch of one example: one number."""


def per_example(function: Loss, outputs: Any, targets: Any) -> Tensor:
    """function(outputs, targets) of every example, each as a batch of one: (b, ...), (b, ...) -> (b,).

    vmap where the function allows it, else one example after the other.
    """
    return each(lambda output, target: number(function(batched(output), batched(target))), outputs, targets)


def each(one: Loss, outputs: Any, targets: Any) -> Tensor:
    """`one(output, target)` of every example, (b,): vmapped where torch can, else example by example."""

    def loop() -> Tensor:
        pairs = zip(examples(outputs), examples(targets), strict=True)
        return torch.stack([one(output, target) for output, target in pairs])

    return attempt(lambda: vmap(one)(outputs, targets), loop)


def number(value: Any) -> Tensor:
    """The one number that a loss or measure gave, as a tensor without dimensions. Raises TypeError or ValueError."""
    if not isinstance(value, Tensor):
        raise TypeError(
            f"a loss or measure must give a tensor, got {type(value).__name__}; a model of transformers computes none "
            'itself here: take outputs.logits and batch["labels"] (upweight.losses.next_token for language models)'
        )
    if value.numel() != 1:
        raise ValueError(
            f"a loss or measure must give one number per example, got shape {tuple(value.shape)} for one example"
        )
    return value.reshape(())

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


def per_example(function: Loss, outputs: Any, targets: Any, vectorised: bool = True) -> Tensor:
    """What a loss or measure of batches gives for every example by itself: each is handed over as a batch of one.

    Reduced losses (`nn.MSELoss()`) and per-example ones thus work alike, and nothing can mix examples. vmap where the
    function allows it, else one example after the other.

    Args:
        function: of outputs (1, ...) and targets (1, ...), one number.
        outputs: of b examples, (b, ...) or a mapping or tuple of such tensors.
        targets: of b examples.
        vectorised: whether vmap is tried.

    Returns:
        One number per example, (b,).

    Raises:
        TypeError: where the function gives no tensor.
        ValueError: where it gives more than one number per example.

    >>> from torch.nn import functional as F
    >>> per_example(F.mse_loss, torch.tensor([[1.0], [4.0]]), torch.zeros(2, 1))
    tensor([ 1., 16.])
    """

    def one(output: Any, target: Any) -> Tensor:
        return number(function(batched(output), batched(target)))

    return each(one, outputs, targets, vectorised)


def each(one: Loss, outputs: Any, targets: Any, vectorised: bool = True) -> Tensor:
    """What a function of one example gives for each of b: vmapped where torch can, else example by example.

    Args:
        one: of an output and a target without batch dimension, one number.
        outputs: of b examples, (b, ...) or a mapping or tuple of such tensors.
        targets: of b examples.
        vectorised: whether vmap is tried.

    Returns:
        One number per example, (b,).
    """

    def loop() -> Tensor:
        pairs = zip(examples(outputs), examples(targets), strict=True)
        return torch.stack([one(output, target) for output, target in pairs])

    return attempt(lambda: vmap(one)(outputs, targets), loop) if vectorised else loop()


def number(value: Any) -> Tensor:
    """The one number that a loss or measure gave, (1,) or (1, 1) say, as a tensor without dimensions.

    Raises TypeError for anything but a tensor, ValueError for more than one number.

    >>> number(torch.ones(1, 1))
    tensor(1.)
    """
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

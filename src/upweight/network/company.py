"""Whether an example has a loss of its own: looked for among all training examples, not a few."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from jaxtyping import Float
from torch.utils._pytree import tree_flatten, tree_map

from ..data.examples import Rows
from ..types import Tensor
from .evaluation import Evaluation, check_loss, close

COMPARED = 8
"""Examples of different sizes that are compared alone and beside the largest."""


@torch.no_grad()
def check_padding(of: Evaluation, theta: Float[Tensor, " p"], rows: Rows, name: str = "train") -> None:
    """Refuse examples whose loss depends on how far their batch is padded, and so on which others are in it.

    Args:
        of: the model with its loss.
        theta: where it is evaluated (p,).
        rows: examples; those whose collator makes all of one size are not looked at.
        name: what they are called in errors.

    Raises:
        ValueError: with the example and both losses.
    """
    chosen = [] if rows.sizes is None else rows.sizes.spread(COMPARED)
    for example in chosen[:-1]:
        alone = of.losses(theta, rows.take(torch.tensor([example])))[0]
        beside = of.losses(theta, rows.take(torch.tensor([example, chosen[-1]])))[0]
        if not close(beside, alone, of.rounding):
            raise ValueError(
                f"{name}: the loss of example {example} is {float(alone):.6g} by itself and {float(beside):.6g} in a "
                f"batch with the longer example {chosen[-1]}: the model or the loss sees the padding, so answers would "
                "depend on which examples share a block; give the model a mask and the loss targets that leave the "
                "padding out, or a collator that pads every example to one length"
            )


def own_losses(
    of: Evaluation, theta: Float[Tensor, " p"], blocks: Iterable[tuple[slice, Any]]
) -> Iterator[Float[Tensor, " b"]]:
    """The losses of training examples, each by itself, checked: finite, and what the loss of a block is made of.

    Class weights under a mean, say, cancel in every block of one class only; so some examples of each block are
    compared beside the first of all.

    Args:
        of: the model with its loss.
        theta: where it is evaluated (p,).
        blocks: the examples, and where they stand among all.

    Returns:
        The losses of each block (b,).

    Raises:
        ValueError: for a loss that is not finite, with the first such example, and for one that mixes examples.
    """
    first: Any = None
    for part, batch in blocks:
        outputs = of.outputs(theta, batch)
        losses = of.measured(outputs, batch)
        if not bool(losses.isfinite().all()):
            example = part.start + int((~losses.isfinite()).nonzero()[0, 0])
            raise ValueError(
                f"train: the loss of example {example} is {float(losses[example - part.start])}: drop or repair it; "
                "an example without any label has no mean over its labels, a sum or upweight.losses.next_token is 0"
            )
        if of.strategy == "batch":
            check_loss(of.loss, outputs, of.own(batch), losses)
            ends = tree_map(lambda leaf: leaf[[0, -1]], (outputs, batch, losses))
            first = first or ends
            beside = _joined(first, ends)
            if beside is not None:
                check_loss(of.loss, *beside)
        yield losses


def _joined(a: Any, b: Any) -> Any:
    """Two batches one after the other, or None where their examples differ in size."""
    (xs, spec), (ys, other) = tree_flatten(a), tree_flatten(b)
    if spec != other or any(x.shape[1:] != y.shape[1:] for x, y in zip(xs, ys, strict=True)):
        return None
    return spec.unflatten([torch.cat([x, y]) for x, y in zip(xs, ys, strict=True)])

"""Whether an example has a loss of its own: looked for among all training examples, not a few."""

from __future__ import annotations

import torch
from jaxtyping import Float

from ..data.examples import Rows
from ..types import Tensor
from .evaluation import Evaluation, close

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
        if not close(beside, alone):
            raise ValueError(
                f"{name}: the loss of example {example} is {float(alone):.6g} by itself and {float(beside):.6g} in a "
                f"batch with the longer example {chosen[-1]}: the model or the loss sees the padding, so answers would "
                "depend on which examples share a block; give the model a mask and the loss targets that leave the "
                "padding out, or a collator that pads every example to one length"
            )

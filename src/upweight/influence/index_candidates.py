"""The strongest rows of an index scored exactly: the index chooses candidates, their whole gradients decide."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float, Int

from ..types import Tensor


class Refined(NamedTuple):
    """The strongest rows of m questions by exact scores of candidates.

    Args:
        values: exact scores (m, q), from the smallest to the largest.
        columns: the rows that they are of.
        said: what tells how complete they are, in words.
    """

    values: Float[Tensor, "m q"]
    columns: Int[Tensor, "m q"]
    said: str


def refined(
    found: Float[Tensor, "m c"], exact: Float[Tensor, "m c"], columns: Int[Tensor, "m c"], top: int
) -> Refined:
    """The `top` smallest and largest exact scores of each question among its candidates, and the recall of the index.

    A row outside the candidates that belongs to the strongest would have to be underrated by more than what is between
    the last candidate and the last of the strongest: that is compared with the largest error among the candidates.

    Args:
        found: the scores of the candidates by the index, from the smallest to the largest.
        exact: their exact ones.
        columns: the rows that they are of.
        top: how many of each side are kept.

    >>> found, exact = torch.tensor([[-3.0, -2.0, 1.0, 2.0]]), torch.tensor([[-3.1, -1.9, 2.2, 2.1]])
    >>> refined(found, exact, torch.tensor([[7, 8, 9, 5]]), top=1).columns
    tensor([[7, 9]])
    """
    values, order = exact.sort(dim=1, stable=True)
    columns_in_order = columns.gather(1, order)
    q, half = exact.shape[1], exact.shape[1] // 2
    if q <= 2 * top:
        return Refined(values, columns_in_order, "")
    ends = torch.cat([torch.arange(top), torch.arange(q - top, q)])
    chosen = columns_in_order[:, ends]
    hits = (chosen[:, :, None] == columns[:, ends][:, None]).any(2).double().mean(1)
    gaps = torch.stack(
        [found[:, half - 1] - values[:, top - 1], values[:, q - top] - found[:, half]], dim=1
    ).amin(1)
    largest = (exact - found).abs().amax(1).clamp(min=1e-300)
    said = (
        f"the {top} strongest of either side are of {half} candidates of the index, scored exactly; the index by "
        f"itself has {float(hits.min()):.0%} of them in the worst row, {float(hits.mean()):.0%} on average, and a row "
        f"outside the candidates belongs to them only if the index is wrong by {float((gaps / largest).min()):.1f} "
        "times the largest error among the candidates"
    )
    return Refined(values[:, ends], chosen, said)

"""What follows a removal besides the rows' own losses: class weights by counts, penalties on columns scaled anew."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int

from ..data.class_counts import ClassCounts
from ..data.column_scales import ColumnScales
from ..objective import LinearModel
from ..types import Tensor
from .class_weights import codes_of

ROWS = 1024
"""Examples whose gradients are formed at a time."""


def class_gradients(problem: LinearModel, counts: ClassCounts) -> Float[Tensor, "k p"]:
    """The sum of the weighted losses' gradients over each class, without the penalty."""
    found = torch.zeros(counts.classes, problem.p, dtype=torch.float64)
    for rows in torch.arange(problem.n).split(ROWS):
        found.index_add_(0, counts.codes[rows], problem.train_gradients(rows) - problem.folded_penalty)
    return found


def relabelling_gradients(
    problem: LinearModel, rows: Int[Tensor, " b"], targets: Tensor, own: Float[Tensor, "b p"]
) -> Float[Tensor, "b p"]:
    """What class weights that follow the counts add to the total gradient as each row, alone, has another label.

    The other rows of both classes weigh otherwise, and the row itself does.

    Args:
        problem: the model.
        rows: their numbers.
        targets: the encoded targets in place of their own.
        own: the gradient of each with that label, at the weight that its class has before, without the penalty.
    """
    counts = problem.counts
    if counts is None:
        return torch.zeros_like(own)
    codes, classes = codes_of(targets), class_gradients(problem, counts)
    before = problem.train_gradients(rows) - problem.folded_penalty
    each = zip(rows.split(1), codes.split(1), strict=True)
    shares = torch.stack([counts.relabelled(row, code)[1] for row, code in each]) - 1
    new, old = (shares.gather(1, its[:, None]) for its in (codes, counts.codes[rows]))
    return shares @ classes + new * own - old * before


def column_gradients(problem: LinearModel, scales: ColumnScales) -> Float[Tensor, "k p"]:
    """The gradient of the total penalty in the squares of the scales of those columns, at theta.

    With the factor f on a column's l2 theta^2 it is n l2 theta f, and an l1 slope's share n slope sqrt(f): half of it.
    """
    penalty = problem.penalty
    total = penalty.l2 * problem.theta + (0.0 if penalty.slope is None else penalty.slope / 2)
    places = torch.arange(problem.c * problem.d).view(problem.c, problem.d)[:, scales.columns]
    found = torch.zeros(len(scales.columns), problem.p, dtype=torch.float64)
    return found.scatter_(1, places.T, problem.n * total[places.T])


def scale_factors(problem: LinearModel, sets: Sequence[Tensor]) -> Float[Tensor, "g p"] | None:
    """What each removal multiplies the penalty on each parameter with, where columns are scaled anew; else None."""
    if problem.scales is None:
        return None
    columns = problem.scales.factors(sets).repeat(1, problem.c)
    return torch.cat([columns, columns.new_ones(len(columns), problem.p - columns.shape[1])], dim=1)

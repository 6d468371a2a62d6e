"""Columns that a scaler divided by what it found in the training rows: how their scales move as rows are removed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int

from ..types import Tensor

STANDARD, RANGE, LARGEST = "standard deviation", "range", "largest size"
"""What a column is divided by: in StandardScaler, MinMaxScaler, MaxAbsScaler."""
CONSTANT = 1e-12
"""The share of its scale up to which what is left of a column counts as constant: scalers then divide by 1."""


@dataclass(frozen=True, eq=False)
class ColumnScales:
    """The columns of X (n, d) that were divided by their own scale, and by which.

    Args:
        values: these columns as the model sees them (n, k).
        columns: their numbers among the d.
        kinds: what each is divided by.
        d: how many columns there are.

    >>> scales = ColumnScales(torch.tensor([[0.0], [1.0], [5.0]]).double(), torch.tensor([1]), ("range",), 2)
    >>> scales.factors([torch.tensor([2])])  # the range becomes a fifth
    tensor([[1.0000, 0.0400]], dtype=torch.float64)
    """

    values: Float[Tensor, "n k"]
    columns: Int[Tensor, " k"]
    kinds: tuple[str, ...]
    d: int

    def take(self, index: Int[Tensor, " b"]) -> ColumnScales:
        """The columns of some of the examples."""
        return replace(self, values=self.values[index])

    def factors(self, sets: Sequence[Int[Tensor, " _"]]) -> Float[Tensor, "g d"]:
        """The square of each column's scale without each of g sets of examples, over what it is with them; else 1.

        A penalty l2 theta_j^2 on a coefficient of the scaled column is one of l2 times this factor where the column
        stays as it is.
        """
        found = torch.ones(len(sets), self.d, dtype=torch.float64)
        for j, kind in enumerate(self.kinds):
            x = self.values[:, j]
            scale = _deviations if kind == STANDARD else _ranges if kind == RANGE else _sizes
            now, later = scale(x, [torch.arange(0)])[0], scale(x, sets)
            there = (later > CONSTANT * now) & (now > 0)
            found[:, self.columns[j]] = torch.where(there, (later / now).square(), 1.0)
        return found


def _deviations(x: Float[Tensor, " n"], sets: Sequence[Tensor]) -> Float[Tensor, " g"]:
    x = x - x.mean()
    gone = torch.stack([torch.stack([x[rows].sum(), x[rows].square().sum()]) for rows in sets])
    left = torch.tensor([len(x) - len(rows) for rows in sets], dtype=torch.float64)
    mean = -gone[:, 0] / left
    found = (x.square().sum() - gone[:, 1]) / left - mean.square()
    rounding = 8 * torch.finfo(torch.float64).eps * x.square().sum() / left  # of a difference of such sums
    return torch.where(found > rounding, found, 0).sqrt()


def _ranges(x: Float[Tensor, " n"], sets: Sequence[Tensor]) -> Float[Tensor, " g"]:
    return _largest(x, sets) + _largest(-x, sets)


def _sizes(x: Float[Tensor, " n"], sets: Sequence[Tensor]) -> Float[Tensor, " g"]:
    return _largest(x.abs(), sets)


def _largest(x: Float[Tensor, " n"], sets: Sequence[Tensor]) -> Float[Tensor, " g"]:
    """The largest number that is left without each set, found among the few largest."""
    order = x.argsort(descending=True)
    found = torch.empty(len(sets), dtype=torch.float64)
    for g, rows in enumerate(sets):
        first = order[: len(rows) + 1]
        found[g] = x[first[~torch.isin(first, rows)][0]]
    return found

"""How much the removal of k units can change a least squares answer at most, for every k at once.

The change is l^T (I - N_T)^-1 r, l and r scaled (`Units`), of the worst set T of k units: docs/certificates.md, whose
numbers stand at the lines that compute them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float

from ..types import Tensor
from .units import Units

SPLITS = (0.5, 0.9)
"""Shares of the single effects that are counted with the partners; more of them make the bound tighter and dearer."""
SQUARES = 64
"""Up to this p the products of pairs of columns are written out for the bound of a direction's share."""
TURNS = 30
"""Steps towards the worst direction's share."""
ROUNDING = 1e-9
"""The share that is added to every bound for what rounding may have taken off."""
NUMBERS = 1 << 24
"""Numbers that a block of ties may have, unless said otherwise."""


@dataclass(frozen=True, eq=False)
class Bounds:
    """Upper bounds (k,) of l^T (I - N_T)^-1 r for sets T of 1 to k units, and of the norm of (I - N_T)^-1 (`inverse`).

    Infinite where no bound is known.
    """

    change: Float[Tensor, " k"]
    inverse: Float[Tensor, " k"]


def subset_bounds(
    units: Units,
    sides: tuple[Float[Tensor, " q"], Float[Tensor, " q"]],
    single: Float[Tensor, " g"],
    most: int,
    numbers: int = NUMBERS,
) -> Bounds:
    """The bounds for sets of 1 to `most` units.

    Args:
        units: what can be removed.
        sides: l and r, scaled (q,).
        single: what the removal of each unit alone changes: the sums of l r, and what a unit has beside it (g,).
        most: the largest size of a set.
        numbers: how many numbers may be held of a block of ties.
    """
    most = min(most, units.count)
    splits = [0.0, *(s / m for s in SPLITS for m in _powers(most))]
    tops = _tops(units, sides, single, most, (splits, numbers))
    sizes = torch.arange(1, most + 1)
    inverse = torch.minimum(_by_pairs(tops.size, tops.square), _by_shares(units, most))
    change = torch.full((most,), torch.inf, dtype=torch.float64)
    for k in sizes.tolist():
        norm = float(inverse[k - 1])
        if k > 1 and norm == torch.inf:
            continue
        left, right = tops.left[:, k - 1].square(), tops.right[:, k - 1].square()
        sums = [largest(side, k) for side in (left, right)]
        balance = (max(sums[1], 1e-300) / max(sums[0], 1e-300)) ** 0.5
        rest = (left * balance + right / balance) / 2 * (norm if k > 1 else 0.0)  # (9)
        for split, both in zip(splits, tops.both, strict=True):
            whole = (1 - split * (k - 1)) * single + both[:, k - 1] + rest  # (8)
            change[k - 1] = min(float(change[k - 1]), largest(whole, k))
    scale = single.abs().topk(most).values.cumsum(0)
    return Bounds(change + ROUNDING * (change.abs() + scale), inverse)


def largest(x: Float[Tensor, " g"], k: int) -> float:
    """The sum of the k largest."""
    return float(x.topk(k).values.sum())


@dataclass(frozen=True, eq=False)
class _Tops:
    """Sums of the 0 to most - 1 largest ties of each unit, (g, most)."""

    size: Tensor
    square: Tensor
    left: Tensor
    right: Tensor
    both: Sequence[Tensor]


def _tops(
    units: Units,
    sides: tuple[Tensor, Tensor],
    single: Tensor,
    most: int,
    plan: tuple[Sequence[float], int],
) -> _Tops:
    splits, numbers = plan
    size, square, left, right, *both = torch.zeros(4 + len(splits), units.count, most, dtype=torch.float64)
    for block, ties in units.ties(*sides, numbers):
        size[block], square[block] = _sums(ties.size, most), _sums(ties.size.square(), most)
        for whole, part in ((left, ties.left), (right, ties.right)):
            whole[block] = _sums(part.clamp(min=0), most)
            if units.single:  # signed: all of one sign at worst
                whole[block] = torch.maximum(whole[block], _sums((-part).clamp(min=0), most))
        for whole, split in zip(both, splits, strict=True):
            partners = ties.both + split * single
            partners[torch.arange(len(block)), block] = -torch.inf
            whole[block] = _sums(partners, most)
    return _Tops(size, square, left, right, both)


def _sums(values: Float[Tensor, "b g"], most: int) -> Float[Tensor, "b k"]:
    """The sums of the 0, 1, ..., most - 1 largest of each row."""
    if most == 1:
        return values.new_zeros(len(values), 1)
    top = values.topk(most - 1, dim=1).values
    return torch.cat([values.new_zeros(len(values), 1), top.cumsum(1)], dim=1)


def _powers(most: int) -> list[int]:
    return [2**j for j in range(max(1, most).bit_length() + 1)]


def _by_pairs(size: Float[Tensor, "g k"], square: Float[Tensor, "g k"]) -> Float[Tensor, " k"]:
    """The norm of (I - N_T)^-1 from the ties of pairs: 1 / (1 - nu_k), by (5) and (6)."""
    most = size.shape[1]
    rows = size.amax(0)
    frobenius = torch.tensor([(k / (k + 1) * largest(square[:, k], k + 1)) ** 0.5 for k in range(most)])
    nu = torch.minimum(rows, frobenius.double())
    return torch.where(nu < 1, 1 / (1 - nu).clamp(min=1e-300), torch.inf)


def _by_shares(units: Units, most: int) -> Float[Tensor, " k"]:
    """The norm of (I - N_T)^-1 from what k units can carry of a direction, c_k: max D / (1 - c_k), by (7)."""
    X = units.Y * (1 - units.own).clamp(min=0).sqrt()[:, None]
    sizes, p = torch.arange(1, most + 1, dtype=torch.float64), X.shape[1]
    share = (sizes * _perron(X, units)).sqrt()
    if p <= SQUARES:
        whole = units.summed(X.square().sum(1))
        trace, worst = whole.topk(most).values.cumsum(0) / p, _traceless(X, units)
        share = torch.minimum(share, trace + (sizes * (1 - 1 / p) * worst).sqrt())
    share = share * (1 + ROUNDING)
    widest = float((1 - units.own).max())
    return torch.where(share < 1, widest / (1 - share).clamp(min=1e-300), torch.inf)


def _perron(X: Float[Tensor, "q p"], units: Units) -> float:
    """An upper bound of the largest eigenvalue of the matrix <C_g, C_h> of all units, C_g = X_g^T X_g: (7a).

    Its entries are >= 0, so that max_g (H x)_g / x_g bounds it for every positive x (Collatz, Wielandt).
    """
    x = torch.ones(units.count, dtype=torch.float64)
    for _ in range(TURNS):
        weights = x[units.owner]
        product = units.summed(((X @ (X.T @ (weights[:, None] * X))) * X).sum(1))
        found = float((product / x).max())
        x = product / product.max().clamp(min=1e-300) + 1e-9
    return found


def _traceless(X: Float[Tensor, "q p"], units: Units) -> float:
    """The largest eigenvalue of the matrix <C_g, C_h> - tr C_g tr C_h / p of all units: (7b)."""
    p = X.shape[1]
    upper = torch.triu_indices(p, p)
    weights = torch.where(upper[0] == upper[1], 1.0, 2.0**0.5).double()
    outer = X[:, upper[0]] * X[:, upper[1]] * weights
    if not units.single:
        outer = outer.new_zeros(units.count, outer.shape[1]).index_add(0, units.owner, outer)
    trace = (upper[0] == upper[1]).double() / p**0.5
    outer = outer - (outer @ trace)[:, None] * trace
    gram = outer.T @ outer if outer.shape[0] > outer.shape[1] else outer @ outer.T
    return float(torch.linalg.eigvalsh(gram)[-1].clamp(min=0))

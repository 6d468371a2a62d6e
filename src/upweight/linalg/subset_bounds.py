"""How much the removal of k units can change a least squares answer at most, for every k at once.

The change is l^T (I - N_T)^-1 r, l and r scaled (`Units`), of the worst set T of k units: docs/certificates.md, whose
numbers stand at the lines that compute them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int

from ..types import Tensor
from .units import Units

SPLITS = (0.25, 0.5, 1.0, 2.0, 4.0)
"""Values of mu, over the largest size: more of them make the bound tighter and dearer."""
SQUARES = 64
"""Up to this p the products of pairs of columns are written out for the bound of a direction's share."""
TURNS = 10
"""Steps towards the worst direction's share."""
ROUNDING = 1e-9
"""The share that is added to every bound for what rounding may have taken off."""
MORE = 128
"""Units that are looked at in a round at least besides those that have to be; as many as before where that is more."""
FEW = 2000
"""Up to so many units all are looked at at once."""
NUMBERS = 1 << 24
"""Numbers that a block of ties may have, unless said otherwise."""


Watch = Callable[[Iterable[Any], int], Iterable[Any]]
"""Passes items on, of which there are so many: a progress bar, say."""


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
    *,
    numbers: int = NUMBERS,
    target: float = torch.inf,
    watch: Watch = lambda items, total: items,
) -> Bounds:
    """The bounds for sets of 1 to `most` units.

    Args:
        units: what can be removed.
        sides: l and r, scaled (q,).
        single: what the removal of each unit alone changes: the sums of l r, and what a unit has beside it (g,).
        most: the largest size of a set.
        numbers: how many numbers may be held of a block of ties.
        target: what the bounds are held against, so that nothing more is looked at where they are below it, or cannot
            come below it; infinite where they are wanted as tight as they can be.
        watch: what blocks of units that are looked at pass through.
    """
    most = min(most, units.count)
    shares = _by_shares(units, most)
    tops = _Tops(units, sides, single, most)
    wanted = tops.first
    while len(wanted):
        tops.look(wanted, numbers, watch)
        change, inverse, wanted = tops.bounds(shares, target)
    scale = single.abs().topk(most).values.cumsum(0)
    return Bounds(change + ROUNDING * (change.abs() + scale), inverse)


def largest_of(values: Float[Tensor, "k g"]) -> tuple[Float[Tensor, " k"], Int[Tensor, "k k"]]:
    """The sum of the 1 largest of the first row, of the 2 largest of the second, ..., and where all of a row's are.

    >>> largest_of(torch.tensor([[1.0, 2.0, 0.0], [1.0, 2.0, 5.0]]))
    (tensor([2., 7.]), tensor([[1, 0],
            [2, 1]]))
    """
    top = values.topk(len(values), dim=1)
    return top.values.cumsum(1).diagonal().clone(), top.indices


class _Tops:
    """Sums (most, g) of the 0 to most - 1 largest ties of each unit: as they are, or not yet looked at and bounded.

    A unit that is not looked at has the bounds that the lengths of its rows give. They are far above what is there, and
    still most units are never among the largest: only those that are need to be looked at. Of the values of mu only the
    `useful` ones are, which give the least bounds of the units seen so far where it is not decided yet.
    """

    def __init__(self, units: Units, sides: tuple[Tensor, Tensor], single: Tensor, most: int) -> None:
        self.units, self.sides, self.single, self.most = units, sides, single, most
        self.splits = [0.0, *(share / most for share in SPLITS)]
        self.useful = set(range(len(self.splits)))
        self.seen = torch.zeros(units.count, dtype=torch.bool)
        lengths = units.summed(units.Y.square().sum(1)).sqrt()
        left, right = (units.lengths(side) for side in sides)
        tops = {name: _sums(x, most) for name, x in (("l", left), ("r", right), ("y", lengths))}
        self.size = tops["y"] * lengths
        self.square = _sums(lengths.square(), most) * lengths.square()
        self.left, self.right = tops["l"] * lengths, tops["r"] * lengths
        pairs = (tops["r"] * left + tops["l"] * right) / 2
        self.both = [split * _sums(single, most) + pairs for split in self.splits]

    @property
    def first(self) -> Int[Tensor, " u"]:
        """The units to be looked at first: those that do most alone, and those that are tied most, or all of a few."""
        if self.units.count <= FEW:
            return torch.arange(self.units.count)
        count = min(self.units.count, 2 * self.most)
        ranked = (self.single, (self.both[0] + self.left + self.right)[-1], self.size[-1])
        return torch.cat([one.topk(count).indices for one in ranked]).unique()

    def look(self, wanted: Int[Tensor, " u"], numbers: int, watch: Watch) -> None:
        """The sums of some units as they are, in the place of their bounds.

        Args:
            wanted: the units.
            numbers: how many numbers a block of ties may have.
            watch: what the blocks pass through.
        """
        self.seen[wanted] = True
        if self.most == 1:
            return
        blocks = self.units.blocks(wanted, numbers)
        for block in watch(blocks, len(blocks)):
            ties = self.units.ties(block, *self.sides)
            top = self._top(ties.size)
            self.size[1:, block], self.square[1:, block] = top.cumsum(1).T, top.square().cumsum(1).T
            for whole, part in ((self.left, ties.left), (self.right, ties.right)):
                found = self._top(part).clamp(min=0).cumsum(1)
                if self.units.single:  # signed: all of one sign at worst
                    found = torch.maximum(found, self._top(-part).clamp(min=0).cumsum(1))
                whole[1:, block] = found.T
            for at in self.useful:
                whole, split = self.both[at], self.splits[at]
                partners = torch.add(ties.both, self.single, alpha=split)
                partners[torch.arange(len(block)), block] = -torch.inf
                whole[1:, block] = self._top(partners).cumsum(1).T

    def _top(self, values: Float[Tensor, "b g"]) -> Float[Tensor, "b k"]:
        """The most - 1 largest of each row, from large to small."""
        return values.topk(self.most - 1, dim=1).values

    def bounds(self, shares: Float[Tensor, " k"], target: float) -> tuple[Tensor, Tensor, Tensor]:
        """The bounds of the change and of the norm of (I - N_T)^-1, and the units to be looked at for tighter ones."""
        sizes = torch.arange(1, self.most + 1, dtype=torch.float64)
        frobenius = ((1 - 1 / sizes) * largest_of(self.square)[0]).sqrt()
        nu = torch.minimum(self.size.amax(1), frobenius)  # (5), (6)
        inverse = torch.where(nu < 1, 1 / (1 - nu).clamp(min=1e-300), torch.inf)
        inverse = torch.minimum(inverse, shares)
        known = inverse.isfinite()
        norm = torch.where(known, inverse, 0.0)
        norm[0] = 0.0  # a unit alone has no partners
        sides = [self.left.square(), self.right.square()]
        sums = [largest_of(side)[0].clamp(min=1e-300) for side in sides]
        balance = (sums[1] / sums[0]).sqrt()[:, None]
        rest = (sides[0] * balance + sides[1] / balance) * (norm[:, None] / 2)  # (9)
        wholes = [
            (1 - split * (sizes - 1))[:, None] * self.single + both + rest  # (8)
            for split, both in zip(self.splits, self.both, strict=True)
        ]
        found = [largest_of(whole) for whole in wholes]
        change, best = torch.stack([total for total, _ in found]).min(0)
        change[1:][~known[1:]] = torch.inf
        undecided = self._undecided(wholes, change, target) & known
        places = torch.stack([where for _, where in found])[best, torch.arange(self.most)]
        wanted = places[torch.ones_like(places, dtype=torch.bool).tril() & undecided[:, None]].unique()
        wanted = wanted[~self.seen[wanted]]
        if len(wanted):  # with some more that come next, so that rounds are few
            k = int(undecided.nonzero().max())
            ahead = torch.where(self.seen, -torch.inf, wholes[int(best[k])][k])
            more = min(max(MORE, int(self.seen.sum())), int((~self.seen).sum()))
            wanted = torch.cat([wanted, ahead.topk(more).indices]).unique()
        return change, inverse, wanted

    def _undecided(self, wholes: list[Tensor], change: Float[Tensor, " k"], target: float) -> Tensor:
        """For which k it is not known on which side of the target the bound is, up to the first that is above (k,)."""
        if target == torch.inf or bool(self.seen.all()):
            return torch.ones(self.most, dtype=torch.bool)
        seen = torch.stack([largest_of(whole.where(self.seen, -torch.inf))[0] for whole in wholes])
        least, best = seen.min(0)
        undecided = (change >= target * (1 - 2 * ROUNDING)) & ((least >= target).cumsum(0) == 0)
        if bool(undecided.any()):
            self.useful = set(best[undecided].tolist())
        return undecided


def _sums(values: Float[Tensor, " g"], most: int) -> Float[Tensor, "k 1"]:
    """The sums of the 0, 1, ..., most - 1 largest."""
    top = values.topk(most - 1).values.cumsum(0)
    return torch.cat([top.new_zeros(1), top])[:, None]


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

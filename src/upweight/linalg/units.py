"""Units that can be taken out of a least squares problem, rows or groups of rows, and the ties between them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float, Int

from ..types import Tensor

ALONE = 1e-9
"""A direction of which all but this share is carried by one unit is determined by it alone."""


class Ties(NamedTuple):
    """What ties some units to all units, for two vectors l and r: own unit 0.

    `size` bounds the spectral norms of the blocks N_gh. `left` and `right` are N_gh l_h and N_gh r_h: signed where
    units are rows, else their norms. `both` are l_g N_gh r_h made symmetric.
    """

    size: Float[Tensor, "b g"]
    left: Float[Tensor, "b g"]
    right: Float[Tensor, "b g"]
    both: Float[Tensor, "b g"]


@dataclass(frozen=True, eq=False)
class Units:
    """Units u with G_uu = X_u X_u^T: rows Y_u = (I - G_uu)^-1/2 X_u, each unit turned so that its G_uu is diagonal.

    I - G_T of a set T of units is D^1/2 (I - N_T) D^1/2, D of the blocks I - G_uu and N_gh = Y_g Y_h^T for g != h, 0
    within a unit (docs/certificates.md, 2). A unit of more than p rows has p rows here at most.
    """

    Y: Float[Tensor, "q p"]
    own: Float[Tensor, " q"]
    """The eigenvalues of G_uu that belong to the rows."""
    owner: Int[Tensor, " q"]
    """The unit of each row, rising."""
    count: int
    members: Sequence[Tensor] | None
    """The rows of the problem of each unit; None where each row is one."""
    turns: Sequence[Tensor] | None

    @classmethod
    def of(cls, X: Float[Tensor, "n p"], members: Sequence[Tensor] | None = None) -> Units:
        """The units of whitened rows.

        Args:
            X: the rows, so that X^T X is at most the identity.
            members: the rows of each unit; None: each row is one.
        """
        if members is None:
            own = X.square().sum(1)
            return cls(_scaled(X, own), own, torch.arange(len(X)), len(X), None, None)
        parts, turns = [], []
        for rows in members:
            U, S, V = torch.linalg.svd(X[rows], full_matrices=False)
            parts.append((S[:, None] * V, S.square()))
            turns.append(U)
        own = torch.cat([part[1] for part in parts])
        owner = torch.arange(len(members)).repeat_interleave(torch.tensor([len(part[1]) for part in parts]))
        return cls(
            _scaled(torch.cat([part[0] for part in parts]), own), own, owner, len(members), members, turns
        )

    @property
    def single(self) -> bool:
        """Whether every unit is one row, so that ties are numbers with a sign.

        Then vectors of rows and of units are the same, and nothing has to be turned or summed.
        """
        return self.members is None

    @property
    def alone(self) -> Tensor:
        """Which rows here (q,) are directions that their unit alone determines, as a group its own constant.

        No other unit has a part in them; without the unit the data say nothing about them.
        """
        return self.own >= 1 - ALONE

    def turned(self, x: Float[Tensor, " n"]) -> Float[Tensor, " q"]:
        """A vector with a number per row of the problem in the units' own coordinates, where each G_uu is diagonal.

        Of a unit with more than p rows only the part is kept that meets the columns of X.
        """
        if self.members is None or self.turns is None:
            return x
        return torch.cat([U.T @ x[rows] for U, rows in zip(self.turns, self.members, strict=True)])

    def scaled(self, x: Float[Tensor, " n"]) -> Float[Tensor, " q"]:
        """D^-1/2 x in the units' own coordinates (q,), as l and s of docs/certificates.md, 2, are made of z and r.

        It is 0 in directions that a unit alone determines, which are left out of everything.
        """
        return _over(self.turned(x), (1 - self.own).clamp(min=0).sqrt(), self.alone)

    def summed(self, x: Float[Tensor, " q"]) -> Float[Tensor, " g"]:
        """The sums of a vector over the rows of each unit (g,), in the units' own coordinates.

        Of single effects l r these are what the removal of each unit alone changes, exactly.
        """
        return x if self.single else x.new_zeros(self.count).index_add(0, self.owner, x)

    def lengths(self, x: Float[Tensor, " q"]) -> Float[Tensor, " g"]:
        """||Y_g^T x_g|| of every unit, x scaled: N_hg x_g is at most ||Y_h|| times that."""
        pulled = self.Y * x[:, None]
        if not self.single:
            pulled = pulled.new_zeros(self.count, self.Y.shape[1]).index_add(0, self.owner, pulled)
        return pulled.norm(dim=1)

    def blocks(self, units: Int[Tensor, " b"], numbers: int) -> list[Int[Tensor, " c"]]:
        """Units, rising, a few at a time: so many that their ties to all units are at most so many numbers."""
        mine = units if self.single else torch.isin(self.owner, units).nonzero()[:, 0]
        return list(_blocks(self.owner[mine], units, max(1, numbers // (8 * len(self.Y)))))

    def ties(self, units: Int[Tensor, " b"], left: Tensor, right: Tensor) -> Ties:
        """What ties some units to all units.

        Args:
            units: which ones, rising.
            left: l, scaled (q,).
            right: r, scaled (q,).
        """
        rows = units if self.single else torch.isin(self.owner, units).nonzero()[:, 0]
        N, owner = self.Y[rows] @ self.Y.T, self.owner[rows]
        N[owner[:, None] == self.owner[None]] = 0
        places = torch.searchsorted(units, owner)
        return self._ties(N, places, (left[rows], left), (right[rows], right))

    def _ties(
        self, N: Tensor, owner: Tensor, ours: tuple[Tensor, Tensor], theirs: tuple[Tensor, Tensor]
    ) -> Ties:
        (l_own, l_all), (r_own, r_all) = ours, theirs
        left, right = N * l_all, N * r_all
        if self.single:
            return Ties(N.abs(), left, right, (l_own[:, None] * right + r_own[:, None] * left) / 2)
        count = int(owner[-1]) + 1

        def over_rows(A: Tensor) -> Tensor:
            return A.new_zeros(count, A.shape[1]).index_add(0, owner, A)

        def over_columns(A: Tensor) -> Tensor:
            return A.new_zeros(len(A), self.count).index_add(1, self.owner, A)

        left, right = over_columns(left), over_columns(right)
        both = over_rows(l_own[:, None] * right + r_own[:, None] * left) / 2
        size = over_rows(over_columns(N.square())).sqrt()
        return Ties(size, over_rows(left.square()).sqrt(), over_rows(right.square()).sqrt(), both)


def _scaled(X: Float[Tensor, "q p"], own: Float[Tensor, " q"]) -> Float[Tensor, "q p"]:
    return _over(X, (1 - own).clamp(min=0).sqrt()[:, None], (own >= 1 - ALONE)[:, None])


def _over(x: Tensor, y: Tensor, nothing: Tensor) -> Tensor:
    """X / y, and 0 where there is nothing."""
    return torch.where(nothing, 0.0, x / torch.where(nothing, 1.0, y))


def _blocks(owner: Tensor, units: Tensor, rows: int) -> Iterator[Tensor]:
    """Units in turn, with up to so many of the rows of `owner` together, at least one unit."""
    ends = torch.searchsorted(owner, units, right=True)
    start = 0
    while start < len(units):
        first = int(ends[start - 1]) if start else 0
        stop = max(start + 1, int(torch.searchsorted(ends, first + rows, right=True)))
        yield units[start:stop]
        start = stop

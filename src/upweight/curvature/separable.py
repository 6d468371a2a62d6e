"""The inverse eigenvalues of a weight matrix as a sum of few outer products, so that a score is a few short products.

1 / Lambda is the same number for all pairs of directions of little variance, 1 / damping: one outer product. What is
left of it is small but for the leading directions, so that its outer products are short: directions stand in the order
of what they carry, and each product is of the first few of both sides.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch.nn import functional as F

from ..types import Tensor

SHARES = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2)
"""Of the largest outer product, what may be cut off the ends of each: tried for the cheapest sum."""
FEW = 8
"""Questions up to which outer products are taken together."""
MOST = 64
"""Outer products at most."""


@dataclass(frozen=True, eq=False)
class Separable:
    """A matrix as a sum of outer products u w, each of some first entries of both sides.

    Args:
        rows: u of each (<= r,).
        columns: w of each (<= s,).
    """

    rows: Sequence[Float[Tensor, " _"]]
    columns: Sequence[Float[Tensor, " _"]]

    @property
    def cost(self) -> int:
        """Multiplications for the product of a question with a gradient."""
        return sum(len(u) + len(w) for u, w in zip(self.rows, self.columns, strict=True))

    def times(self, left: Float[Tensor, "k r"], right: Float[Tensor, "k s"]) -> list[tuple[Tensor, Tensor]]:
        """The entrywise products with k outer products left right^T, as outer products of first entries.

        Those of few questions come together, (R k, r) and (R k, s), one outer product after the other.
        """
        terms = [
            (left[:, : len(u)] * u.to(left), right[:, : len(w)] * w.to(right))
            for u, w in zip(self.rows, self.columns, strict=True)
        ]
        if len(left) > FEW or len(terms) < 3:
            return terms
        # To read the gradients takes longer than to multiply with them: once for all outer products but the first, the
        # longest.
        short = (_padded(side) for side in zip(*terms[1:], strict=True))
        return [terms[0], (next(short), next(short))]

    def tensors(self) -> dict[str, Tensor]:
        """Everything, by name."""
        sizes = [[len(u), len(w)] for u, w in zip(self.rows, self.columns, strict=True)]
        return {"u": torch.cat([*self.rows]), "w": torch.cat([*self.columns]), "sizes": torch.tensor(sizes)}

    @classmethod
    def restored(cls, u: Tensor, w: Tensor, sizes: Tensor) -> Separable:
        """What `tensors` gave.

        Args:
            u: all left vectors, one after the other.
            w: all right ones.
            sizes: the lengths of both, of each outer product.
        """
        rows, columns = sizes.T.tolist()
        return cls(u.split(rows), w.split(columns))


def separated(
    values: Float[Tensor, "r s"], energy: Float[Tensor, "r s"], tolerance: float
) -> Separable | None:
    """1 / values as the cheapest such sum; None where nothing is cheaper than the whole matrix.

    Args:
        values: eigenvalues, damping included, directions in the order of what they carry.
        energy: what each entry carries of the squared scores.
        tolerance: the squared scores that may be off, in the units of `energy`.
    """
    inverse, weights = 1 / values, energy.double() * values.square()
    sides = weights.mean(1).sqrt(), weights.mean(0).sqrt()
    rows, columns = (side.clamp(min=1e-9 * max(float(side.max()), 1e-300)) for side in sides)
    best: Separable | None = None
    for constant in (float(inverse.max()), 0.0):
        first = (
            [(inverse.new_full((len(rows),), constant), inverse.new_ones(len(columns)))] if constant else []
        )
        U, sizes, V = torch.linalg.svd(rows[:, None] * (inverse - constant) * columns, full_matrices=False)
        scaled = U / rows[:, None] * sizes, V / columns
        for share in SHARES:
            cuts = _cuts(U, V, share * sizes[0] / sizes)
            found = _sum(inverse - constant, weights, (*scaled, cuts), tolerance)
            if found is not None:
                own = Separable(*zip(*first, *found, strict=False))
                if own.cost < (best.cost if best else values.numel()):
                    best = own
    return best


def _cuts(U: Tensor, V: Tensor, shares: Float[Tensor, " k"]) -> Iterator[tuple[int, int]]:
    """How many first entries of each pair of singular vectors hold all but a share of their norm."""
    for u, v, share in zip(U.T, V, shares, strict=True):
        yield _first(u, share), _first(v, share)


def _first(x: Float[Tensor, " r"], share: Float[Tensor, ""]) -> int:
    return int((x.square().flip(0).cumsum(0).flip(0) > share.square()).sum())


def _sum(
    left: Float[Tensor, "r s"],
    weights: Float[Tensor, "r s"],
    terms: tuple[Tensor, Tensor, Iterator[tuple[int, int]]],
    tolerance: float,
) -> list[tuple[Tensor, Tensor]] | None:
    """The first outer products that leave no more than the tolerance; None where all of them do not.

    Args:
        left: what they add up to.
        weights: of the squares of what is left over.
        terms: U (r, k), W (k, s), and how many first entries of each count.
        tolerance: of the weighted sum of squares.
    """
    U, W, cuts = terms
    left, found = left.clone(), []
    for i, (r, s) in zip(range(MOST), cuts, strict=False):
        if not r or not s:
            return None
        u, w = U[:r, i].clone(), W[i, :s].clone()
        left[:r, :s] -= u[:, None] * w
        found.append((u, w))
        if float((left.square() * weights).sum()) <= tolerance:
            return found
    return None


def _padded(sides: Sequence[Tensor]) -> Float[Tensor, "Rk r"]:
    """Vectors of several outer products, one after the other, as long as the longest of them."""
    most = max(side.shape[1] for side in sides)
    return torch.cat([F.pad(side, (0, most - side.shape[1])) for side in sides])

"""Vectors that are sums of outer products of small factors, part by part, and products between them.

The letters are those of layers: left (b, t, r) and right (b, t, s) make the matrices sum_t left_t right_t^T (b, r, s).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import torch
from jaxtyping import Float
from torch.nn import functional as F

from ..types import Tensor

SLAB = 4 << 20
"""Numbers of an intermediate product held at once."""
Pair: TypeAlias = tuple[Tensor, Tensor]
"""left (b, t, r) and right (b, t, s)."""


@dataclass(frozen=True, eq=False)
class WeightMatrix:
    """One weight matrix inside flat vectors: `index` are its entries, row by row, then those of its intercept.

    With an intercept the matrix (rows, columns + 1) has it as its last column, as if the layer had one more input that
    is always 1.

    Args:
        index: places in a flat vector, (rows * columns,) or with the intercept (rows * (columns + 1),).
        rows: outputs of the layer.
        columns: inputs of the layer.

    >>> matrix = WeightMatrix(torch.arange(6), rows=2, columns=2)
    >>> matrix.stack(torch.arange(6.0))
    tensor([[0., 1., 4.],
            [2., 3., 5.]])
    """

    index: Tensor
    rows: int
    columns: int

    @property
    def intercept(self) -> bool:
        """Whether an intercept comes along as the last column: `index` then has more entries than rows * columns."""
        return len(self.index) > self.rows * self.columns

    def flat(self, G: Float[Tensor, "*k r s"]) -> Float[Tensor, "*k q"]:
        """Matrices (..., r, s) as their q entries in the order of `index`: weights row by row, then the intercepts."""
        if not self.intercept:
            return G.flatten(-2)
        return torch.cat([G[..., :-1].flatten(-2), G[..., -1]], dim=-1)

    def stack(self, rows: Float[Tensor, "*k p"]) -> Float[Tensor, "*k r s"]:
        """The part of flat vectors (..., p) that this matrix holds, as matrices (..., r, s); the inverse of `flat`."""
        part = rows[..., self.index]
        weights = part[..., : self.rows * self.columns].unflatten(-1, (self.rows, self.columns))
        if not self.intercept:
            return weights
        return torch.cat([weights, part[..., self.rows * self.columns :, None]], dim=-1)


class Pairs(NamedTuple):
    """Gradients of b examples: left and right of each weight matrix, and the entries outside all of them (b, q).

    Example i's gradient in a weight matrix is sum_t left[i, t] right[i, t]^T, t the positions at which the layer was
    used: once in a plain network, once per word or pixel in others. r + s numbers stand for r s.
    """

    layers: list[Pair]
    rest: Tensor


def joined(parts: Sequence[Pairs]) -> Pairs:
    """The gradients of several blocks of examples as those of one block, in order.

    All blocks are of one model. Where a weight has fewer positions t in one of them (shorter texts), zeros stand for
    the others.
    """

    def together(blocks: Sequence[Tensor]) -> Tensor:
        most = max(block.shape[1] for block in blocks)
        return torch.cat([F.pad(block, (0, 0, 0, most - block.shape[1])) for block in blocks])

    sides = zip(*(part.layers for part in parts), strict=True)
    layers = [(together([left for left, _ in own]), together([right for _, right in own])) for own in sides]
    return Pairs(layers, torch.cat([part.rest for part in parts]))


@dataclass(frozen=True, eq=False)
class WeightLayout:
    """The weight matrices inside flat vectors, and the entries `rest` (q,) outside all of them, in order.

    Every entry of a flat vector belongs to exactly one of them: norms, scales and whatever no layer holds as a matrix
    are in `rest`.
    """

    matrices: tuple[WeightMatrix, ...]
    rest: Tensor

    def take_apart(self, rows: Float[Tensor, "k p"] | Outer) -> Vectors | Outer:
        """Take k flat vectors apart, matrix by matrix, for products with gradients in small factors.

        Vectors that are given as outer products are apart already and come back as they are.
        """
        if isinstance(rows, Outer):
            return rows
        return Vectors([matrix.stack(rows) for matrix in self.matrices], rows[:, self.rest])

    def join(self, pairs: Pairs) -> Float[Tensor, "b p"]:
        """The gradients of b examples written out as flat vectors (b, p): b p numbers, where `pairs` held far fewer."""
        size = len(self.rest) + sum(len(matrix.index) for matrix in self.matrices)
        G = pairs.rest.new_empty(len(pairs.rest), size)
        G[:, self.rest] = pairs.rest
        for matrix, (left, right) in zip(self.matrices, pairs.layers, strict=True):
            G[:, matrix.index] = matrix.flat(left.mT @ right)
        return G


@dataclass(frozen=True, eq=False)
class Vectors:
    """k flat vectors taken apart: (k, r, s) per weight matrix, and the entries outside all of them (k, q)."""

    layers: list[Tensor]
    rest: Float[Tensor, "k q"]

    def products(self, pairs: Pairs) -> Float[Tensor, "k b"]:
        """The product of each of the k vectors with each of the b gradients: the scores of a block of examples.

        Gradients at one position are never formed: left^T S right is two products with small factors.
        """
        total = self.rest @ pairs.rest.T
        for (left, right), S in zip(pairs.layers, self.layers, strict=True):
            if left.shape[1] == 1:
                _add_single(total, left[:, 0], right[:, 0], S)
            else:
                total += S.flatten(1) @ (left.mT @ right).flatten(1).T
        return total


@dataclass(frozen=True, eq=False)
class Outer:
    """k flat vectors as sums of R outer products per weight matrix: left (R, k, r), right (R, k, s); the rest (k, q).

    It stands in for a tensor (k, p) where only products with vectors and with gradients are asked for.
    """

    layout: WeightLayout
    layers: list[Pair]
    rest: Float[Tensor, "k q"]

    def products(self, pairs: Pairs) -> Float[Tensor, "k b"]:
        """The product of each of the k vectors with each of the b gradients.

        A pair takes about R (r + s) operations instead of r s: that is what makes compressed queries cheap on many
        training examples: nothing of size p is read.
        """
        total = self.rest @ pairs.rest.T
        for (left, right), (U, W) in zip(pairs.layers, self.layers, strict=True):
            b, t = left.shape[:2]
            for u, w in zip(U, W, strict=True):
                both = (u @ left.flatten(0, 1).T) * (w @ right.flatten(0, 1).T)
                total += both if t == 1 else both.view(-1, b, t).sum(2)
        return total

    @property
    def numbers(self) -> int:
        """How many numbers one of the vectors holds, R (r + s) per weight matrix; written out it would hold p."""
        return self.rest.shape[1] + sum(len(U) * (U.shape[2] + W.shape[2]) for U, W in self.layers)

    def __len__(self) -> int:
        return len(self.rest)

    def __neg__(self) -> Outer:
        return Outer(self.layout, [(-u, w) for u, w in self.layers], -self.rest)

    def __matmul__(self, vector: Float[Tensor, " p"]) -> Float[Tensor, " k"]:
        """The product of every one of the k vectors with one flat vector (p,), without writing them out."""
        total = self.rest @ vector[self.layout.rest]
        for matrix, (U, W) in zip(self.layout.matrices, self.layers, strict=True):
            total = total + ((U @ matrix.stack(vector)) * W).sum((0, 2))
        return total

    def flat(self) -> Float[Tensor, "k p"]:
        """The vectors written out, p numbers each: what they stand for, and what tests compare them with."""
        pairs = [(U.movedim(0, 1), W.movedim(0, 1)) for U, W in self.layers]
        return self.layout.join(Pairs(pairs, self.rest))

    def to(self, like: Tensor) -> Outer:
        """A copy of the vectors in the precision and on the device of another tensor; the layout is shared."""
        return Outer(self.layout, [(u.to(like), w.to(like)) for u, w in self.layers], self.rest.to(like))


def written_out(rows: Float[Tensor, "k p"] | Outer) -> Float[Tensor, "k p"]:
    """Flat vectors (k, p) as they are, outer products as the flat vectors that they stand for; see `Outer.flat`."""
    return rows.flat() if isinstance(rows, Outer) else rows


def _add_single(
    total: Float[Tensor, "k b"],
    left: Float[Tensor, "b r"],
    right: Float[Tensor, "b s"],
    vectors: Float[Tensor, "k r s"],
) -> None:
    """left_i^T S right_i by one matrix product with the longer side, a few vectors at a time."""
    if left.shape[1] > right.shape[1]:
        left, right, vectors = right, left, vectors.mT
    few = max(1, SLAB // left.numel())
    for out, S in zip(total.split(few), vectors.split(few), strict=True):
        inner = (right @ S.flatten(0, 1).T).view(len(right), *S.shape[:2])  # (b, k, r)
        out += (inner @ left[:, :, None])[:, :, 0].T

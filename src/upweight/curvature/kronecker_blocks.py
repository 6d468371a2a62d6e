"""Blocks of EKFAC: what is gathered of one weight matrix, and of the parameters outside all of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int

from ..capabilities import Sides
from ..linalg.factorizations import CholeskyFactor, DiagonalFactor, Factor
from ..linalg.kronecker import KroneckerFactor
from ..linalg.lanczos import eigenvectors
from ..linalg.outer_products import WeightMatrix
from ..runtime.distributed import sum_across
from ..types import Tensor

MOST_LEADING = 2048
"""Rows of the dense block of one weight matrix's leading directions."""
KEPT = ("left", "right", "values", "whole")
"""What a block keeps of the data."""


class Added(NamedTuple):
    """Damping that is added to eigenvalues: a number everywhere, and a multiple of each block's own mean eigenvalue.

    Args:
        damping: what is added to every eigenvalue, >= 0.
        relative: the share of a block's mean eigenvalue, without penalty, that is added in this block as well, >= 0.
    """

    damping: float
    relative: float


class Block:
    """The bases and eigenvalues of one weight matrix (r, e), gathered in two passes over the data.

    The first pass (`add_moments`) sums the outer products of both sides, whose eigenvectors are the bases; the second
    (`add_values`) sums the squares of all gradients in these bases, which are the eigenvalues times n. Letters: r rows,
    e columns with the intercept's, b examples, t positions of each.

    Args:
        i: the number of the weight matrix in the problem's layout.
        matrix: its place inside flat vectors.
        shares_right: whether right factors are the same for every cotangent.
        leading: right directions that are kept whole, as many as `MOST_LEADING` allows.
        dtype: the precision of all sums.
    """

    def __init__(
        self, i: int, matrix: WeightMatrix, shares_right: bool, leading: int, dtype: torch.dtype
    ) -> None:
        self.i, self.matrix, self.shares_right = i, matrix, shares_right
        r, e = matrix.rows, matrix.columns + matrix.intercept
        of: dict[str, Any] = {"dtype": dtype, "device": matrix.index.device}
        self.outputs, self.inputs = torch.zeros(r, r, **of), torch.zeros(e, e, **of)
        self.leading = min(leading, e, MOST_LEADING // r)
        self.values, self.whole = torch.zeros(r, e, **of), torch.zeros((r, self.leading) * 2, **of)
        self.seen: _Seen | None = None

    # -- the first pass --------------------------------------------------------------------------------------------

    def add_moments(self, sides: Sides, w: Float[Tensor, " b"], *, first: bool) -> None:
        """Add the outer products of both sides, summed over examples and positions.

        Args:
            sides: both sides for one cotangent of b examples.
            w: the weights of these examples (b,).
            first: whether it is the first cotangent of these examples; a shared right side is added once.
        """
        self.outputs += _moment(sides.left(self.i), w)
        if first or not self.shares_right:
            self.inputs += _moment(sides.right(self.i), w)

    def join_moments(self, other: Block) -> None:
        """Add what the first pass over other data has summed of the same weight matrix."""
        self.outputs += other.outputs
        self.inputs += other.inputs

    def diagonalise(self) -> None:
        """Find the bases: the eigenvectors of both sides, summed over all processes, as columns.

        On the left the smallest variance comes first, on the right the largest, so that leading directions do.
        """
        self.left = eigenvectors(sum_across(self.outputs))
        self.right = eigenvectors(sum_across(self.inputs)).flip(1)

    # -- the second pass -------------------------------------------------------------------------------------------

    def join_values(self, other: Block) -> None:
        """Add what the second pass over other data has summed, in the bases of this block."""
        self.values += other.values
        self.whole += other.whole

    def clear(self) -> None:
        """Forget all squares, so that the second pass can start anew, in smaller blocks say; the bases stay."""
        self.values.zero_()
        self.whole.zero_()
        self.seen = None

    def add_values(self, sides: Sides, w: Float[Tensor, " b"]) -> None:
        """Add the squares of gradients in the bases. Where examples have one position, they wait for `flush`.

        Args:
            sides: both sides for one cotangent of b examples.
            w: the weights of these examples (b,).
        """
        left = _weighted(sides.left(self.i), w)
        if self.seen is None or not self.shares_right:
            right = sides.right(self.i)
            self.seen = _Seen((right @ self.right.to(right.dtype)).to(left.dtype))
        seen = self.seen
        if left.shape[1] != 1 or not self.shares_right:
            self._add_gradients(left, seen.right)
            return
        # One position: the left sides may be summed over the cotangents first.
        left = left[:, 0]
        seen.spread += (left @ self.left.to(left.dtype)).square()
        if self.leading:
            seen.outer += left[:, :, None] * left[:, None]

    def flush(self) -> None:
        """Add what has been gathered over all cotangents of some examples: to be called after the last of these.

        The right sides of one position are the same for all cotangents, so that one product serves these together.
        """
        seen, self.seen = self.seen, None
        if seen is None or not isinstance(seen.spread, Tensor):
            return
        right = seen.right[:, 0]
        self.values += seen.spread.T @ right.square()
        if self.leading:
            _add_leading(self.whole, right[:, : self.leading], lambda i: seen.outer[:, i, i:])

    def _add_gradients(self, left: Float[Tensor, "b t r"], right: Float[Tensor, "b t s"]) -> None:
        """Squares of the gradients themselves, formed one example at a time."""
        self.values += ((left @ self.left.to(left.dtype)).mT @ right).square().sum(0)
        if self.leading:
            G = (left.mT @ right[:, :, : self.leading]).flatten(1)
            self.whole += (G.T @ G).view_as(self.whole)

    # -- what comes of it ------------------------------------------------------------------------------------------

    def tensors(self) -> dict[str, Tensor]:
        """What is kept of the data, by name: bases, eigenvalues times n, and the block of leading directions."""
        return {name: getattr(self, name) for name in KEPT}

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Put in place what `tensors` gave, on the device of this matrix; no pass over the data is needed then."""
        sides = self.matrix.rows, self.matrix.columns + self.matrix.intercept
        if (len(tensors["left"]), len(tensors["right"])) != sides:
            raise ValueError(f"the bases of matrix {self.i} are not {sides} long")
        for name in KEPT:
            setattr(self, name, tensors[name].to(self.matrix.index.device))

    def factor(self, n: int, l2: Float[Tensor, " p"], added: Added, dtype: torch.dtype) -> KroneckerFactor:
        """The weight matrix's part of the curvature: eigenvalues / n + mean penalty + damping, in its bases.

        Eigenvalues below the rounding of the largest are raised to it, so that there is an inverse without damping too.

        Args:
            n: the number of examples that were gathered.
            l2: the penalty of every parameter (p,), of which the weights, not the intercept, get their mean.
            added: the damping.
            dtype: the precision of the factor.
        """
        weights = self.matrix.index[: self.matrix.rows * self.matrix.columns]
        more = float(l2[weights].double().mean()) + added.damping
        more += added.relative * float(self.values.mean()) / n
        values = self.values / n + more
        floor = max(float(values.max()) * torch.finfo(dtype).eps, torch.finfo(dtype).tiny)
        size = self.matrix.rows * self.leading
        whole = (self.whole / n).view(size, size)
        whole.diagonal().add_(max(more, floor))
        left, right = self.left.to(dtype), self.right.to(dtype)
        values = values.clamp(min=floor).to(dtype)
        return KroneckerFactor(left, right, values, whole.to(dtype), intercept=self.matrix.intercept)


@dataclass
class _Seen:
    """The rotated right side of a block of examples, and sums over the cotangents."""

    right: Float[Tensor, "b t s"]
    spread: Any = 0.0
    outer: Any = 0.0


class Rest:
    """The parameters outside weight matrices: sums for a dense block of their Gauss-Newton matrix, or its diagonal.

    Args:
        index: their entries of theta (q,).
        dense: whether q^2 numbers may be kept.
        dtype: the precision of all sums.
    """

    def __init__(self, index: Int[Tensor, " q"], dense: bool, dtype: torch.dtype) -> None:
        self.index = index
        self.total = torch.zeros((len(index),) * (2 if dense else 1), dtype=dtype, device=index.device)

    def add(self, sides: Sides, w: Float[Tensor, " b"]) -> None:
        """Add the outer products of these entries of the gradients, or their squares where only the diagonal is kept.

        Args:
            sides: gradients for one cotangent of b examples.
            w: the weights of these examples (b,).
        """
        P = sides.rest() * w.sqrt()[:, None]
        self.total += P.T @ P if self.total.ndim == 2 else P.square().sum(0)

    def spectrum(self, n: int) -> KroneckerFactor | DiagonalFactor:
        """What these entries have of the curvature, by eigenvalues.

        Args:
            n: the number of examples that were gathered.
        """
        if self.total.ndim == 1:
            return DiagonalFactor(self.total / n)
        values, basis = torch.linalg.eigh(self.total / n)
        floor = max(float(values[-1]) * torch.finfo(values.dtype).eps, torch.finfo(values.dtype).tiny)
        one = values.new_ones(1, 1)
        return KroneckerFactor(basis, one, values.clamp(min=floor)[:, None], one[:0, :0], intercept=False)

    def factor(self, n: int, l2: Float[Tensor, " p"], added: Added, dtype: torch.dtype) -> Factor:
        """The part of the curvature that these entries have: a block with a Cholesky factor, or a diagonal.

        Args:
            n: the number of examples that were gathered.
            l2: the penalty of every parameter (p,); each entry has its own.
            added: the damping.
            dtype: the precision of the factor.
        """
        diagonal = self.total if self.total.ndim == 1 else self.total.diagonal()
        more = l2[self.index].double() + added.damping + added.relative * float(diagonal.mean()) / n
        floor = max(float(diagonal.max()) / n * torch.finfo(dtype).eps, torch.finfo(dtype).tiny)
        more = more.clamp(min=floor)
        if self.total.ndim == 1:
            return DiagonalFactor((self.total / n + more).to(dtype))
        matrix = self.total / n
        matrix.diagonal().add_(more)
        return CholeskyFactor(matrix.to(dtype))


def _weighted(X: Float[Tensor, "b t r"], w: Float[Tensor, " b"]) -> Float[Tensor, "b t r"]:
    """Times the roots of the weights: a square of it has the weights themselves."""
    return X * w.sqrt().to(X.dtype)[:, None, None]


def _moment(X: Float[Tensor, "b t r"], w: Float[Tensor, " b"]) -> Float[Tensor, "r r"]:
    """sum_i w_i sum_t x x^T."""
    flat = _weighted(X, w).flatten(0, 1)
    return flat.T @ flat


def _add_leading(
    block: Float[Tensor, "c r c r"], P: Float[Tensor, "b r"], weights: Callable[[int], Tensor]
) -> None:
    """Add sum_e W_e (x) p_e p_e^T, output by output; weights(i) is row i of every W_e from its diagonal on, (b, *)."""
    for i in range(len(block)):
        W = weights(i)
        last = i + W.shape[1]
        pairs = P.T @ (W[:, :, None] * P[:, None]).flatten(1)
        block[i, :, i:last] += pairs.view(len(pairs), last - i, -1)
        block[i:last, :, i] = block[i, :, i:last].permute(1, 2, 0).clone()

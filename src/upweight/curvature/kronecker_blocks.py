"""What EKFAC gathers of one weight matrix, and of the parameters outside all of them."""

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
    """Damping: the same everywhere, and a multiple of each block's mean eigenvalue."""

    damping: float
    relative: float


class Block:
    """The bases and eigenvalues of one weight matrix, gathered in two passes over the data.

    Args:
        i: which of the weight matrices.
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
        """Add the mean outer products of both sides.

        Args:
            sides: of one cotangent.
            w: the examples' weights.
            first: whether it is the first cotangent of these examples; a shared right side is added once.
        """
        self.outputs += _moment(sides.left(self.i), w)
        if first or not self.shares_right:
            self.inputs += _moment(sides.right(self.i), w)

    def diagonalise(self) -> None:
        """Eigenvectors of both sides over all processes, on the right the largest variance first."""
        self.left = eigenvectors(sum_across(self.outputs))
        self.right = eigenvectors(sum_across(self.inputs)).flip(1)

    # -- the second pass -------------------------------------------------------------------------------------------

    def clear(self) -> None:
        """Forget all squares."""
        self.values.zero_()
        self.whole.zero_()
        self.seen = None

    def add_values(self, sides: Sides, w: Float[Tensor, " b"]) -> None:
        """Add squares in the bases, for one cotangent of examples with weights w."""
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
        """Add what has been gathered over the cotangents of a block of examples."""
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
        """What is kept of the data, by name."""
        return {name: getattr(self, name) for name in KEPT}

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Put in place what `tensors` gave."""
        for name in KEPT:
            setattr(self, name, tensors[name].to(self.matrix.index.device))

    def factor(self, n: int, l2: Float[Tensor, " p"], added: Added, dtype: torch.dtype) -> KroneckerFactor:
        """The matrix's part of the curvature.

        Args:
            n: the number of examples that were gathered.
            l2: the penalty of every parameter (p,), of which its weights get their mean.
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
    """The parameters outside weight matrices: a dense block, or a diagonal.

    Args:
        index: their entries of theta (q,).
        dense: whether q^2 numbers may be kept.
        dtype: the precision of all sums.
    """

    def __init__(self, index: Int[Tensor, " q"], dense: bool, dtype: torch.dtype) -> None:
        self.index = index
        self.total = torch.zeros((len(index),) * (2 if dense else 1), dtype=dtype, device=index.device)

    def add(self, sides: Sides, w: Float[Tensor, " b"]) -> None:
        """Add the outer products of these entries, for one cotangent of examples with weights w."""
        P = sides.rest() * w.sqrt()[:, None]
        self.total += P.T @ P if self.total.ndim == 2 else P.square().sum(0)

    def factor(self, n: int, l2: Float[Tensor, " p"], added: Added, dtype: torch.dtype) -> Factor:
        """The curvature of these entries.

        Args:
            n: the number of examples that were gathered.
            l2: the penalty of every parameter (p,).
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

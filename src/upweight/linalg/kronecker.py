"""Kronecker products of two bases, and matrices that are zero outside blocks of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from jaxtyping import Float

from ..types import Tensor
from .factorizations import CholeskyFactor, DiagonalFactor, Factor
from .lanczos import indefinite
from .outer_products import Pairs

OfEigenvalues: TypeAlias = Callable[[Tensor], Tensor]
"""A function of eigenvalues, entry by entry."""


class KroneckerFactor(Factor):
    """A = Q B Q^T, Q the Kronecker product of an output basis (c, c) and an input basis (e, e).

    This is EKFAC's inverse for one weight matrix. B is diag(values), but for the first r input directions, which keep
    their own `block` in the plain outputs. Rows are weights (c, d) followed, where `intercept`, by (c,) intercepts,
    which then are input column e = d + 1. Cost: 2 c e (c + e) operations to turn a row into the bases, where A is
    simple, and as many to turn it back; no matrix of size c e is formed.

    Args:
        left: the output basis, orthonormal columns.
        right: the input basis, orthonormal columns, the leading directions first.
        values: the eigenvalue of every pair of directions, damping included; those of the first r are not used.
        block: A among the first r input directions, in the order output by output; (0, 0) for none.
        intercept: whether rows end with the intercepts.

    Raises:
        IndefiniteError: for values or a block that are not positive definite.

    >>> factor = KroneckerFactor(
    ...     torch.eye(2), torch.eye(3), torch.full((2, 3), 4.0), torch.zeros(0, 0), intercept=True
    ... )
    >>> factor.solve(torch.ones(1, 6))
    tensor([[0.2500, 0.2500, 0.2500, 0.2500, 0.2500, 0.2500]])
    """

    def __init__(
        self,
        left: Float[Tensor, "c c"],
        right: Float[Tensor, "e e"],
        values: Float[Tensor, "c e"],
        block: Float[Tensor, "cr cr"],
        *,
        intercept: bool,
    ) -> None:
        self.dtype = values.dtype
        self.intercept = intercept
        if not bool((values > 0).all()):
            raise indefinite(float(values.min()))
        self.leading = len(block) // len(left)
        self.left, self.right, self.values = left, right, values[:, self.leading :]
        self.block = CholeskyFactor(block)

    def rotated(self, rows: Tensor) -> tuple[Float[Tensor, "k cr"], Float[Tensor, "k c s"]]:
        """Rows in the bases: their leading input directions, in the plain outputs, and all others."""
        c = len(self.left)
        if self.intercept:
            stack = torch.cat([rows[:, :-c].unflatten(1, (c, -1)), rows[:, -c:, None]], dim=2)
        else:
            stack = rows.unflatten(1, (c, -1))
        inner = stack @ self.right
        return inner[:, :, : self.leading].flatten(1), self.left.T @ inner[:, :, self.leading :]

    def _back(self, first: Tensor, rest: Tensor) -> Float[Tensor, "k p"]:
        """The inverse of `rotated`."""
        c = len(self.left)
        stack = torch.cat([first.view(len(first), c, self.leading), self.left @ rest], dim=2) @ self.right.T
        if self.intercept:
            return torch.cat([stack[:, :, :-1].flatten(1), stack[:, :, -1]], dim=1)
        return stack.flatten(1)

    def solve(self, rows: Float[Tensor, "k p"]) -> Float[Tensor, "k p"]:
        first, rest = self.rotated(rows)
        return self._back(self.block.solve(first), rest / self.values)

    def quadratic(self, rows: Float[Tensor, "k p"]) -> Float[Tensor, " k"]:
        first, rest = self.rotated(rows)
        return self.block.quadratic(first) + (rest.square() / self.values).sum((1, 2))

    def quadratic_outer(
        self, left: Float[Tensor, "k t c"], right: Float[Tensor, "k t e"]
    ) -> Float[Tensor, " k"]:
        """v^T A^-1 v for v = sum_t left_t right_t^T, the intercepts as the last column of right.

        With one position t the vectors, c e numbers each, are never formed: c + e rotated numbers are enough. Otherwise
        it is `quadratic` of the vectors written out.
        """
        right = right.to(self.dtype) @ self.right
        left = left.to(self.dtype)
        first, right = right[:, :, : self.leading], right[:, :, self.leading :]
        found = (
            self.block.quadratic((left.mT @ first).flatten(1)) if self.leading else left.new_zeros(len(left))
        )
        left = left @ self.left
        if left.shape[1] == 1:
            return found + ((left[:, 0].square() @ (1 / self.values)) * right[:, 0].square()).sum(1)
        return found + ((left.mT @ right).square() / self.values).sum((1, 2))

    def mapped(self, rows: Float[Tensor, "k p"], function: OfEigenvalues) -> Float[Tensor, "k p"]:
        """f(A) v for every row v, where no directions are kept whole.

        Args:
            rows: v.
            function: f, entry by entry of eigenvalues.
        """
        first, rest = self.rotated(rows.to(self.dtype))
        assert not self.leading
        return self._back(first, rest * function(self.values))

    def weighted(self, diagonal: Float[Tensor, " p"], penalty: float) -> KroneckerFactor:
        """D (A + penalty) D, as far as it is diagonal in these bases, for a diagonal D^2: exact where that is constant.

        Args:
            diagonal: D^2 (p,), > 0. Along each pair of directions it counts by its mean there.
            penalty: what is added to eigenvalues.
        """
        assert not self.leading
        squares = KroneckerFactor(
            self.left.square(),
            self.right.square(),
            self.values,
            self.values[:0, :0],
            intercept=self.intercept,
        )
        along = squares.rotated(diagonal.to(self.dtype)[None])[1][0]
        return KroneckerFactor(
            self.left,
            self.right,
            (self.values + penalty) * along,
            self.values[:0, :0],
            intercept=self.intercept,
        )

    def product(self, rows: Float[Tensor, "k p"]) -> Float[Tensor, "k p"]:
        """A v for every row v, at the price of `solve`; what residuals are recomputed with."""
        first, rest = self.rotated(rows)
        inside = self.block.product
        assert inside is not None
        return self._back(inside(first), rest * self.values)


class BlocksFactor(Factor):
    """A is zero outside blocks: one per weight matrix, in their order, and one for the entries outside all of them.

    It is the factor of EKFAC on a whole model. Rows are taken apart, every block is inverted by itself, and the answers
    are put back at their places.

    Args:
        layers: the entries of each weight matrix in a flat vector, and its factor.
        rest: the entries outside, and their factor, if there are any.
        p: the length of flat vectors; every entry is in one block.
        dtype: the precision of all factors.
    """

    def __init__(
        self,
        layers: list[tuple[Tensor, KroneckerFactor]],
        rest: tuple[Tensor, Factor] | None,
        p: int,
        dtype: torch.dtype,
    ) -> None:
        self.dtype, self.layers, self.rest = dtype, layers, rest
        self.parts: list[tuple[Tensor, Factor]] = [*layers, *([] if rest is None else [rest])]
        assert sum(len(index) for index, _ in self.parts) == p
        self.product = self._product

    def _product(self, rows: Float[Tensor, "k p"]) -> Float[Tensor, "k p"]:
        return self._each(rows, [part.product for _, part in self.parts])

    def solve(self, rows: Float[Tensor, "k p"]) -> Float[Tensor, "k p"]:
        return self._each(rows, [part.solve for _, part in self.parts])

    def _each(self, rows: Tensor, maps: list[Any]) -> Tensor:
        out = torch.empty_like(rows)
        for (index, _), apply in zip(self.parts, maps, strict=True):
            out[:, index] = apply(rows[:, index])
        return out

    def quadratic(self, rows: Float[Tensor, "k p"]) -> Float[Tensor, " k"]:
        return torch.stack([part.quadratic(rows[:, index]) for index, part in self.parts]).sum(0)

    def quadratic_outer(self, pairs: Pairs) -> Float[Tensor, " k"]:
        """v^T A^-1 v for gradients v in small factors, summed over the blocks.

        Weight matrices that were used at one position are not formed, so that self-influence of a wide layer costs
        little more than its inputs.
        """
        found = [
            part.quadratic_outer(*pair) for (_, part), pair in zip(self.layers, pairs.layers, strict=True)
        ]
        if self.rest is not None:
            found.append(self.rest[1].quadratic(pairs.rest))
        return torch.stack(found).sum(0)


class Spectrum:
    """A symmetric matrix that is zero outside blocks, of which functions are asked: each block is diagonal in a basis.

    Args:
        layers: the entries of each weight matrix in a flat vector, and its eigenvalues with their basis.
        rest: the entries outside, if there are any, and their eigenvalues: in a basis, or the entries' own.
    """

    def __init__(
        self,
        layers: list[tuple[Tensor, KroneckerFactor]],
        rest: tuple[Tensor, KroneckerFactor | DiagonalFactor] | None,
    ) -> None:
        self.parts = [*layers, *([] if rest is None else [rest])]

    def weighted(self, diagonal: Float[Tensor, " p"], penalty: float) -> Spectrum:
        """D (A + penalty) D for a diagonal D^2, as `KroneckerFactor.weighted` has it.

        Args:
            diagonal: D^2 (p,).
            penalty: what is added to eigenvalues.
        """
        found = Spectrum([], None)
        found.parts = [(index, part.weighted(diagonal[index], penalty)) for index, part in self.parts]
        return found

    def mapped(self, rows: Float[Tensor, "k p"], function: OfEigenvalues) -> Float[Tensor, "k p"]:
        """f(A) v for every row v.

        Args:
            rows: v.
            function: f, entry by entry of eigenvalues.
        """
        out = torch.empty_like(rows)
        for index, part in self.parts:
            out[:, index] = part.mapped(rows[:, index], function).to(out)
        return out

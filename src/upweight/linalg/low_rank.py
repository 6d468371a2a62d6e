"""Matrices that are simple but for a few directions."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float

from ..types import Tensor
from .factorizations import Factor
from .lanczos import indefinite


class LowRankFactor(Factor):
    """A = V^T diag(values) V on r orthonormal rows V (r, p), and the smallest of the values everywhere else.

    What a matrix is taken for when only its leading eigenpairs are known (`Nystrom`, `Arnoldi`): the directions that
    nobody has seen get the smallest known curvature, so that the inverse is bounded. Cost: 4 r p operations a row;
    memory: r p numbers.

    Args:
        vectors: V, orthonormal rows.
        values: (r,), their eigenvalues > 0, damping included.

    Raises:
        IndefiniteError: where the smallest value is not positive.

    >>> factor = LowRankFactor(torch.eye(3)[:2], torch.tensor([4.0, 2.0]))
    >>> factor.solve(torch.ones(1, 3))
    tensor([[0.2500, 0.5000, 0.5000]])
    """

    def __init__(self, vectors: Float[Tensor, "r p"], values: Float[Tensor, " r"]) -> None:
        self.dtype, self.vectors, self.values = values.dtype, vectors, values
        self.rest = float(values.min())
        if not self.rest > 0:
            raise indefinite(self.rest)
        self.product = self.multiply

    @classmethod
    def mean(cls, factors: Sequence[LowRankFactor]) -> LowRankFactor:
        """The mean of some, of as many directions as the first has; what lies outside their directions counts as 0."""
        if len(factors) == 1:
            return factors[0]
        roots = [(one.values / len(factors)).sqrt()[:, None] * one.vectors for one in factors]
        basis, small = torch.linalg.qr(torch.cat(roots).T)
        values, inner = torch.linalg.eigh((small @ small.T).double())
        best = values.argsort(descending=True)[: len(factors[0].values)]
        least = torch.finfo(basis.dtype).eps * values.max()
        return cls((basis @ inner[:, best].to(basis)).T.contiguous(), values[best].clamp(min=least).to(basis))

    def mapped(
        self, rows: Float[Tensor, "k p"], function: Callable[[Tensor], Tensor]
    ) -> Float[Tensor, "k p"]:
        """f(A) v for every row v.

        Args:
            rows: v.
            function: f, entry by entry of eigenvalues.
        """
        found = function(self.values.double())
        return self._scaled(rows.to(self.dtype), found.to(self.dtype), float(found[self.values.argmin()]))

    def multiply(self, rows: Float[Tensor, "k p"]) -> Float[Tensor, "k p"]:
        """A v for every row v, as `product` gives it: 4 r p operations a row, no p x p matrix."""
        return self._scaled(rows, self.values, self.rest)

    def to(self, dtype: torch.dtype) -> LowRankFactor:
        """A copy of the factor whose vectors and values are held in another precision."""
        return LowRankFactor(self.vectors.to(dtype), self.values.to(dtype))

    def _scaled(self, rows: Tensor, values: Tensor, rest: float) -> Tensor:
        inner = rows @ self.vectors.T
        return torch.addmm(rest * rows, inner * (values - rest), self.vectors)

    def solve(self, rows: Float[Tensor, "k p"]) -> Float[Tensor, "k p"]:
        return self._scaled(rows, 1 / self.values, 1 / self.rest)

    def quadratic(self, rows: Float[Tensor, "k p"]) -> Float[Tensor, " k"]:
        return (rows * self.solve(rows)).sum(1)


class UpdatedFactor(Factor):
    """A + C^T C for a factorised A and a few rows C (q, p), by the Woodbury identity.

    (A + C^T C)^-1 = A^-1 - A^-1 C^T (I + C A^-1 C^T)^-1 C A^-1: q solves with A once, then one solve with A and 4 q p
    operations for every row. An attack uses it, which changes few training examples while all others stay.

    Args:
        base: A.
        rows: C, in the precision of A.

    >>> from .factorizations import DiagonalFactor
    >>> UpdatedFactor(DiagonalFactor(torch.ones(2)), torch.tensor([[1.0, 0.0]])).solve(torch.ones(1, 2))
    tensor([[0.5000, 1.0000]])
    """

    def __init__(self, base: Factor, rows: Float[Tensor, "q p"]) -> None:
        self.dtype, self.base, self.rows = base.dtype, base, rows
        self.reach = base.solve(rows)
        self.lower = torch.linalg.cholesky(torch.eye(len(rows), dtype=rows.dtype) + rows @ self.reach.T)

    def solve(self, rows: Float[Tensor, "k p"]) -> Float[Tensor, "k p"]:
        base = self.base.solve(rows)
        return base - torch.cholesky_solve(self.rows @ base.T, self.lower).T @ self.reach

    def quadratic(self, rows: Float[Tensor, "k p"]) -> Float[Tensor, " k"]:
        return (rows * self.solve(rows)).sum(1)

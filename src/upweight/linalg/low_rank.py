"""Matrices that are simple but for a few directions."""

from __future__ import annotations

import torch
from jaxtyping import Float

from ..types import Tensor
from .factorizations import Factor
from .lanczos import indefinite


class LowRankFactor(Factor):
    """A = V^T diag(values) V on r orthonormal rows V (r, p), and the smallest of the values everywhere else."""

    def __init__(self, vectors: Float[Tensor, "r p"], values: Float[Tensor, " r"]) -> None:
        self.dtype, self.vectors, self.values = values.dtype, vectors, values
        self.rest = float(values.min())
        if not self.rest > 0:
            raise indefinite(self.rest)
        self.product = self.multiply

    def multiply(self, rows: Float[Tensor, "k p"]) -> Float[Tensor, "k p"]:
        """A v for every row v."""
        return self._scaled(rows, self.values, self.rest)

    def to(self, dtype: torch.dtype) -> LowRankFactor:
        """The same in another precision."""
        return LowRankFactor(self.vectors.to(dtype), self.values.to(dtype))

    def _scaled(self, rows: Tensor, values: Tensor, rest: float) -> Tensor:
        inner = rows @ self.vectors.T
        return torch.addmm(rest * rows, inner * (values - rest), self.vectors)

    def solve(self, rows: Float[Tensor, "k p"]) -> Float[Tensor, "k p"]:
        return self._scaled(rows, 1 / self.values, 1 / self.rest)

    def quadratic(self, rows: Float[Tensor, "k p"]) -> Float[Tensor, " k"]:
        return (rows * self.solve(rows)).sum(1)


class UpdatedFactor(Factor):
    """A + C^T C for a factorised A and a few rows C (q, p), by the Woodbury identity."""

    def __init__(self, base: Factor, rows: Float[Tensor, "q p"]) -> None:
        self.dtype, self.base, self.rows = base.dtype, base, rows
        self.reach = base.solve(rows)
        self.lower = torch.linalg.cholesky(torch.eye(len(rows), dtype=rows.dtype) + rows @ self.reach.T)

    def solve(self, rows: Float[Tensor, "k p"]) -> Float[Tensor, "k p"]:
        base = self.base.solve(rows)
        return base - torch.cholesky_solve(self.rows @ base.T, self.lower).T @ self.reach

    def quadratic(self, rows: Float[Tensor, "k p"]) -> Float[Tensor, " k"]:
        return (rows * self.solve(rows)).sum(1)

"""Factorisations: a curvature digested once, to be inverted often and exactly."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from jaxtyping import Float

from ..types import Operator, Tensor
from .lanczos import indefinite, lowest_eigenvalue


class Factor(ABC):
    """A factorised symmetric positive definite matrix A (p, p)."""

    dtype: torch.dtype
    product: Operator | None = None
    """A v from the explicit matrix, where there is one: residuals cost no pass over the data."""

    @property
    def leverages(self) -> Float[Tensor, " r"] | None:
        """The numbers u A^-1 u^T of the rows u of A's root, where they come cheaper than one solve each."""
        return None

    @abstractmethod
    def solve(self, rows: Float[Tensor, "k p"]) -> Float[Tensor, "k p"]:
        """A^-1 v for every row v."""

    @abstractmethod
    def quadratic(self, rows: Float[Tensor, "k p"]) -> Float[Tensor, " k"]:
        """v^T A^-1 v for every row v."""


class CholeskyFactor(Factor):
    """A = L L^T. Memory: the matrix and L, 2 p^2 numbers.

    `lifted` is A with some curvature given to directions that A is flat along by construction: it is what is inverted.
    """

    def __init__(self, matrix: Float[Tensor, "p p"], lifted: Float[Tensor, "p p"] | None = None) -> None:
        self.dtype = matrix.dtype
        inverted = matrix if lifted is None else lifted
        lower, failed = torch.linalg.cholesky_ex(inverted)
        if int(failed):
            raise indefinite(lowest_eigenvalue(inverted))
        self.lower = lower
        self.product = lambda rows: (rows.to(matrix.dtype) @ matrix).to(rows.dtype)

    def solve(self, rows: Float[Tensor, "k p"]) -> Float[Tensor, "k p"]:
        return torch.cholesky_solve(rows.T.to(self.dtype), self.lower).T.to(rows.dtype)

    def quadratic(self, rows: Float[Tensor, "k p"]) -> Float[Tensor, " k"]:
        half = torch.linalg.solve_triangular(self.lower, rows.T.to(self.dtype), upper=False)
        return torch.linalg.vector_norm(half, dim=0).square().to(rows.dtype)


class DiagonalFactor(Factor):
    """A = diag(values)."""

    def __init__(self, values: Float[Tensor, " p"]) -> None:
        self.dtype, self.values = values.dtype, values
        self.product = lambda rows: rows * values

    def solve(self, rows: Float[Tensor, "k p"]) -> Float[Tensor, "k p"]:
        return rows / self.values

    def quadratic(self, rows: Float[Tensor, "k p"]) -> Float[Tensor, " k"]:
        return (rows.square() / self.values).sum(1)

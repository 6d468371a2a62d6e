"""Factorisations: a curvature digested once, to be inverted often and exactly."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from jaxtyping import Float

from ..types import Operator, Tensor
from .lanczos import indefinite, lowest_eigenvalue


class Factor(ABC):
    """A symmetric positive definite matrix A (p, p), digested once so that it can be inverted often.

    `Curvature.factor` makes one and `Exact` answers with it. Damping and penalty are part of A already. Cholesky and
    dual factors take rows of any precision, and their answers have that of the rows.
    """

    dtype: torch.dtype
    """The precision that the factor is held in."""
    product: Operator | None = None
    """A v from the explicit matrix, where there is one: residuals cost no pass over the data."""

    @property
    def leverages(self) -> Float[Tensor, " r"] | None:
        """The leverages u A^-1 u^T of the rows u of A's root U (r, p), where A = U^T U + a diagonal; numbers in 0..1.

        None where they cost a solve each: only a factor of the dual matrix (r, r) has them from one inverse.
        """
        return None

    @abstractmethod
    def solve(self, rows: Float[Tensor, "k p"]) -> Float[Tensor, "k p"]:
        """A^-1 v for every row v, with a relative error of about cond(A) times machine epsilon.

        Rows do not see each other: what comes back for one does not depend on which others are asked along.
        """

    @abstractmethod
    def quadratic(self, rows: Float[Tensor, "k p"]) -> Float[Tensor, " k"]:
        """v^T A^-1 v >= 0 for every row v, which is its squared norm in the inverse of A.

        Self-influence (Sec. 5.4) is minus this number for a training gradient v; a triangular solve is enough for it
        where there is a Cholesky factor, half of what `solve` costs.
        """


class CholeskyFactor(Factor):
    """A = L L^T by Cholesky: p^3 / 3 operations once, 2 p^2 for every row; memory: the matrix and L, 2 p^2 numbers.

    Args:
        matrix: A, symmetric; `product` multiplies with it.
        lifted: A with some curvature given to directions that A is flat along by construction; it is what is inverted.

    Raises:
        IndefiniteError: where a pivot is not positive, with the smallest eigenvalue.

    >>> factor = CholeskyFactor(torch.diag(torch.tensor([2.0, 4.0])))
    >>> factor.solve(torch.ones(1, 2)), factor.quadratic(torch.ones(1, 2))
    (tensor([[0.5000, 0.2500]]), tensor([0.7500]))
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
    """A = diag(values), values (p,) > 0, which nobody checks: p operations a row, p numbers of memory.

    >>> DiagonalFactor(torch.tensor([2.0, 4.0])).solve(torch.ones(1, 2))
    tensor([[0.5000, 0.2500]])
    """

    def __init__(self, values: Float[Tensor, " p"]) -> None:
        self.dtype, self.values = values.dtype, values
        self.product = lambda rows: rows * values

    def solve(self, rows: Float[Tensor, "k p"]) -> Float[Tensor, "k p"]:
        return rows / self.values

    def quadratic(self, rows: Float[Tensor, "k p"]) -> Float[Tensor, " k"]:
        return (rows.square() / self.values).sum(1)

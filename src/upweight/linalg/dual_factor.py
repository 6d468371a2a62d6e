"""A matrix with fewer rows in its root than it has columns, inverted on that smaller side."""

from __future__ import annotations

from functools import cached_property

import torch
from jaxtyping import Float
from scipy.linalg import lapack

from ..types import Tensor
from .factorizations import Factor
from .lanczos import indefinite
from .rows import Rows, as_rows


class DualFactor(Factor):
    """A = U^T U + diag(D) with U (r, p), r < p, by a Cholesky factor of the dual matrix M = I + U D^-1 U^T (r, r).

    Woodbury: A^-1 = D^-1 - D^-1 U^T M^-1 U D^-1. Entries of D that are zero (unpenalised intercepts) are eliminated by
    a Schur complement of their number's size. Cost: r^2 p + r^3 / 3 operations, then 4 r p for every row; memory: r p +
    r^2 numbers. A linear model with fewer examples than parameters is inverted this way.

    Args:
        root: U; for a linear model the rows of its loss's Hessian roots, one per example and output.
        diagonal: D (p,) >= 0, the penalty and the damping.

    Raises:
        IndefiniteError: where unpenalised entries are not determined by the rows of U.

    >>> factor = DualFactor(
    ...     torch.tensor([[1.0, 1.0, 0.0]]), torch.ones(3)
    ... )  # A = [[2, 1, 0], [1, 2, 0], [0, 0, 1]]
    >>> factor.solve(torch.tensor([[3.0, 0.0, 1.0]])), factor.leverages
    (tensor([[ 2.0000, -1.0000,  1.0000]]), tensor([0.6667]))
    """

    def __init__(self, root: Float[Tensor, "r p"] | Rows, diagonal: Float[Tensor, " p"]) -> None:
        rows, self.dtype = as_rows(root), diagonal.dtype
        self.unpenalised = (diagonal == 0).nonzero()[:, 0]
        self.penalised = (diagonal > 0).nonzero()[:, 0]
        self.diagonal = rows.squares() + diagonal
        self.product = lambda v: rows.backward(rows.forward(v)) + v * diagonal.to(v)
        self.rows = rows.columns(self.penalised)
        self.D = diagonal[self.penalised]
        dual = self.rows.gram(self.D.sqrt())
        dual.diagonal().add_(1.0)
        self.dual, failed = torch.linalg.cholesky_ex(dual)
        if int(failed):  # the penalty drowns in the rounding of the rest
            raise indefinite(0.0)
        # The unpenalised columns F of the root meet all others K = U^T U + diag(D) in F^T U. As U K^-1 = M^-1 U D^-1,
        # their Schur complement F^T F - F^T U K^-1 U^T F is F^T M^-1 F: no difference of large numbers at small D.
        self.free = rows.columns(self.unpenalised).dense()
        half = torch.linalg.solve_triangular(self.dual, self.free, upper=False)
        whole = torch.linalg.solve_triangular(self.dual.T, half, upper=True)  # M^-1 F
        self.cross = self.rows.backward(whole.T) / self.D  # F^T U K^-1
        schur = half.T @ half
        self.schur, failed = torch.linalg.cholesky_ex(schur)
        rounding = 10 * len(schur) * torch.finfo(self.dtype).eps
        if int(failed) or bool((self.schur.diagonal().square() <= rounding * schur.diagonal()).any()):
            raise indefinite(0.0)

    @property
    def U(self) -> Float[Tensor, "r k"]:  # noqa: N802 the letter of the formula
        """The penalised columns of the root, written out."""
        return self.rows.dense()

    @cached_property
    def leverages(self) -> Float[Tensor, " r"]:
        """The leverages u A^-1 u^T (r,) of the rows u of the root, at the price of one triangular inverse of size r.

        The penalised entries give 1 - (M^-1)_ii; the unpenalised ones, columns F (r, q) of the root, add the diagonal
        of (M^-1 F) S^-1 (M^-1 F)^T with their Schur complement S. All of them lie between 0 and 1 and sum to the trace
        of A^-1 U^T U, the effective number of parameters.
        """
        # M^-1 = L^-T L^-1: the column norms of L^-1 are its diagonal, at half of what the whole inverse takes.
        # LAPACK reads columns: the transpose is not copied.
        half = torch.from_numpy(lapack.dtrtri(self.dual.double().numpy().T, lower=0)[0].T).to(self.dtype)
        inverse = torch.cholesky_solve(self.free, self.dual).T
        added = torch.linalg.solve_triangular(self.schur, inverse, upper=False)
        return 1 - torch.linalg.vector_norm(half, dim=0).square() + added.square().sum(0)

    def _penalised_inverse(self, rows: Tensor) -> Tensor:
        scaled = rows / self.D
        inside = torch.cholesky_solve(self.rows.forward(scaled).T, self.dual).T
        return scaled - self.rows.backward(inside) / self.D

    def solve(self, rows: Float[Tensor, "k p"]) -> Float[Tensor, "k p"]:
        wide = rows.to(self.dtype)
        out = torch.empty_like(wide)
        inner = self._penalised_inverse(wide[:, self.penalised])
        if len(self.unpenalised):
            reduced = wide[:, self.unpenalised] - wide[:, self.penalised] @ self.cross.T
            out[:, self.unpenalised] = torch.cholesky_solve(reduced.T, self.schur).T
            inner = inner - out[:, self.unpenalised] @ self.cross
        out[:, self.penalised] = inner
        return out.to(rows.dtype)

    def quadratic(self, rows: Float[Tensor, "k p"]) -> Float[Tensor, " k"]:
        return (rows * self.solve(rows)).sum(1)

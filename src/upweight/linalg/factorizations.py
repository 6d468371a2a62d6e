"""Factorisations: a curvature digested once, to be inverted often and exactly."""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import cached_property

import torch
from jaxtyping import Float
from scipy.linalg import blas, lapack

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


class DualFactor(Factor):
    """A = U^T U + diag(D) with U (r, p), r < p, by a Cholesky factor of the dual matrix I + U D^-1 U^T (r, r).

    Entries of D that are zero (unpenalised intercepts) are eliminated by a Schur complement of their number's size.
    Memory: r (p + r) numbers.
    """

    def __init__(self, root: Float[Tensor, "r p"], diagonal: Float[Tensor, " p"]) -> None:
        self.dtype = root.dtype
        self.bare = (diagonal == 0).nonzero()[:, 0]
        self.kept = (diagonal > 0).nonzero()[:, 0]
        self.U = root[:, self.kept]
        self.D = diagonal[self.kept]
        dual = _gram(self.U / self.D.sqrt())
        dual.diagonal().add_(1.0)
        self.dual = torch.linalg.cholesky(dual)
        free = root[:, self.bare]
        self.cross = free.T @ self.U  # (q, kept): the block of A between bare and kept entries
        self.reach = self._kept_inverse(self.cross)
        schur = free.T @ free - self.cross @ self.reach.T
        lower, failed = torch.linalg.cholesky_ex(schur)
        if int(failed):
            raise indefinite(float(torch.linalg.eigvalsh(schur)[0]))
        self.schur, self.free = lower, free

    @cached_property
    def leverages(self) -> Float[Tensor, " r"]:
        """The numbers u A^-1 u^T of the rows u of the root, at the price of one inverse of the dual matrix M^-1.

        Kept entries give 1 - M_ii; what the bare ones F add is (M F) S^-1 (M F)^T, S their Schur complement.
        """
        # Half of what the inverse of M itself takes.
        half = torch.from_numpy(lapack.dtrtri(self.dual.double().numpy(), lower=1)[0]).to(self.dtype)
        bare = torch.linalg.solve_triangular(
            self.schur, torch.cholesky_solve(self.free, self.dual).T, upper=False
        )
        return 1 - half.square().sum(0) + bare.square().sum(0)

    def _kept_inverse(self, rows: Tensor) -> Tensor:
        scaled = rows / self.D
        return scaled - torch.cholesky_solve(self.U @ scaled.T, self.dual).T @ self.U / self.D

    def solve(self, rows: Float[Tensor, "k p"]) -> Float[Tensor, "k p"]:
        wide = rows.to(self.dtype)
        out = torch.empty_like(wide)
        inner = self._kept_inverse(wide[:, self.kept])
        if len(self.bare):
            bare = torch.cholesky_solve((wide[:, self.bare] - inner @ self.cross.T).T, self.schur).T
            inner = inner - bare @ self.reach
            out[:, self.bare] = bare
        out[:, self.kept] = inner
        return out.to(rows.dtype)

    def quadratic(self, rows: Float[Tensor, "k p"]) -> Float[Tensor, " k"]:
        return (rows * self.solve(rows)).sum(1)


def _gram(rows: Float[Tensor, "r p"]) -> Float[Tensor, "r r"]:
    """The lower triangle of S S^T, which is all that a Cholesky factor reads; on the CPU at half the work."""
    if rows.device.type != "cpu":
        return rows @ rows.T
    name = "dsyrk" if rows.dtype == torch.float64 else "ssyrk"
    return torch.from_numpy(getattr(blas, name)(1.0, rows.numpy().T, trans=1, lower=1))


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


class DiagonalFactor(Factor):
    """A = diag(values)."""

    def __init__(self, values: Float[Tensor, " p"]) -> None:
        self.dtype, self.values = values.dtype, values
        self.product = lambda rows: rows * values

    def solve(self, rows: Float[Tensor, "k p"]) -> Float[Tensor, "k p"]:
        return rows / self.values

    def quadratic(self, rows: Float[Tensor, "k p"]) -> Float[Tensor, " k"]:
        return (rows.square() / self.values).sum(1)

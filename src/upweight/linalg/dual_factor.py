"""A matrix with fewer rows in its root than it has columns, inverted on that smaller side."""

from __future__ import annotations

from functools import cached_property

import torch
from jaxtyping import Float
from scipy.linalg import blas, lapack

from ..types import Tensor
from .factorizations import Factor
from .lanczos import indefinite


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

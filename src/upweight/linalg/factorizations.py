"""Factorisations: a curvature digested once, to be inverted often and exactly."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import cached_property

import torch
from jaxtyping import Float

from ..types import Operator, Tensor
from .coordinates import Coordinates, power_of_two
from .lanczos import indefinite, lowest_eigenvalue

FLAT = 1e-7
"""A matrix of unit diagonal with a lowest eigenvalue above minus this is called singular, not indefinite."""


class Factor(ABC):
    """A symmetric positive definite matrix A (p, p), digested once so that it can be inverted often.

    `Curvature.factor` makes one and `Exact` answers with it. Damping and penalty are part of A already. Cholesky and
    dual factors take rows of any precision, and their answers have that of the rows.
    """

    dtype: torch.dtype
    """The precision that the factor is held in."""
    product: Operator | None = None
    """A v from the explicit matrix, where there is one: residuals cost no pass over the data."""
    diagonal: Float[Tensor, " p"] | None = None
    """The diagonal of A where it is known, which tells the units of the parameters."""
    coordinates: Coordinates = Coordinates()
    """Those in which `core` has been factorised."""

    @property
    def core(self) -> Factor:
        """The factor of T^T A T in the coordinates T where residuals are judged; this one, where T is nothing."""
        return self

    @property
    def rounding(self) -> float:
        """What rounding may add to ||s - A^-1 v||_A, per unit of the norm of s in units of A's diagonal; 0: unknown."""
        return 0.0

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

    It is A with its diagonal scaled to about 1 that is factorised, so that units do not matter. A float32 matrix whose
    pivots drown in rounding is factorised in float64.

    Args:
        matrix: A, symmetric; `product` multiplies with it.
        flat: directions (q, p), orthogonal to each other, that A is flat along by construction: they are given some
            curvature. Right-hand sides never go there, and answers do not either.

    Raises:
        IndefiniteError: where a pivot is not positive, with the smallest eigenvalue.

    >>> factor = CholeskyFactor(torch.diag(torch.tensor([2.0, 4.0])))
    >>> factor.solve(torch.ones(1, 2)), factor.quadratic(torch.ones(1, 2))
    (tensor([[0.5000, 0.2500]]), tensor([0.7500]))
    """

    def __init__(self, matrix: Float[Tensor, "p p"], flat: Float[Tensor, "q p"] | None = None) -> None:
        self.diagonal = matrix.diagonal().clone()
        self.flat = None if flat is None else flat / torch.linalg.vector_norm(flat, dim=1, keepdim=True)
        self.scale = power_of_two(self.diagonal.sqrt())
        self.lower, failed = _cholesky(matrix, self.scale, flat)
        if failed and matrix.dtype == torch.float32:
            self.lower, failed = _cholesky(matrix.double(), self.scale.double(), flat)
        self.dtype = self.lower.dtype
        if failed:
            scaled = lowest_eigenvalue(matrix * self.scale * self.scale[:, None])
            raise indefinite(0.0 if scaled > -FLAT else lowest_eigenvalue(matrix))
        self.product = lambda rows: (rows.to(matrix.dtype) @ matrix).to(rows.dtype)

    @cached_property
    def rounding(self) -> float:
        # The smallest eigenvalue of the scaled matrix, by a few steps of inverse iteration.
        x = torch.randn(len(self.scale), 2, generator=torch.Generator().manual_seed(0)).to(self.lower)
        for _ in range(3):
            x = torch.cholesky_solve(x / torch.linalg.vector_norm(x, dim=0), self.lower)
        inverse = float(torch.linalg.vector_norm(x, dim=0).max())
        return torch.finfo(self.lower.dtype).eps * (len(self.scale) * inverse) ** 0.5

    def solve(self, rows: Float[Tensor, "k p"]) -> Float[Tensor, "k p"]:
        scaled = rows.to(self.dtype) * self.scale
        found = torch.cholesky_solve(scaled.T, self.lower).T * self.scale
        if self.flat is not None:
            flat = self.flat.to(found)
            found = found - found @ flat.T @ flat
        return found.to(rows.dtype)

    def quadratic(self, rows: Float[Tensor, "k p"]) -> Float[Tensor, " k"]:
        scaled = rows.to(self.dtype) * self.scale
        half = torch.linalg.solve_triangular(self.lower, scaled.T, upper=False)
        return torch.linalg.vector_norm(half, dim=0).square().to(rows.dtype)


def _cholesky(matrix: Tensor, scale: Tensor, flat: Tensor | None) -> tuple[Tensor, bool]:
    """The Cholesky factor of a matrix whose rows and columns are scaled, and whether it failed."""
    scaled = matrix * scale
    scaled *= scale[:, None]
    if flat is not None:
        rows = flat.to(scaled) / scale
        rows /= torch.linalg.vector_norm(rows, dim=1, keepdim=True)
        scaled.addmm_(rows.T, rows)
    lower, failed = torch.linalg.cholesky_ex(scaled)
    return lower, bool(failed)


class MovedFactor(Factor):
    """A factor of T^T A T as one of A: what was factorised where columns have mean 0, or comparable units.

    Second moments of columns far from zero lose the digits that their variances are made of, and directions drawn at
    random in mixed units are those of the largest one.

    Args:
        core: the factor of T^T A T.
        coordinates: T.
    """

    def __init__(self, core: Factor, coordinates: Coordinates) -> None:
        self.dtype, self._core, self.coordinates = core.dtype, core, coordinates
        inside = core.product
        if inside is not None:
            self.product = lambda rows: coordinates.derivatives(inside(coordinates.parameters(rows)))

    @property
    def core(self) -> Factor:
        return self._core

    @property
    def leverages(self) -> Float[Tensor, " r"] | None:
        return self._core.leverages

    def solve(self, rows: Float[Tensor, "k p"]) -> Float[Tensor, "k p"]:
        inside = self.coordinates.inward(rows.to(self.dtype))
        return self.coordinates.outward(self._core.solve(inside)).to(rows.dtype)

    def quadratic(self, rows: Float[Tensor, "k p"]) -> Float[Tensor, " k"]:
        return self._core.quadratic(self.coordinates.inward(rows.to(self.dtype))).to(rows.dtype)


class DiagonalFactor(Factor):
    """A = diag(values), values (p,) > 0, which nobody checks: p operations a row, p numbers of memory.

    >>> DiagonalFactor(torch.tensor([2.0, 4.0])).solve(torch.ones(1, 2))
    tensor([[0.5000, 0.2500]])
    """

    def __init__(self, values: Float[Tensor, " p"]) -> None:
        self.dtype, self.values, self.diagonal = values.dtype, values, values
        self.product = lambda rows: rows * values

    def mapped(
        self, rows: Float[Tensor, "k p"], function: Callable[[Tensor], Tensor]
    ) -> Float[Tensor, "k p"]:
        """f(A) v for every row v.

        Args:
            rows: v.
            function: f, entry by entry of eigenvalues.
        """
        return rows * function(self.values)

    def weighted(self, diagonal: Float[Tensor, " p"], penalty: float) -> DiagonalFactor:
        """D (A + penalty) D for a diagonal D^2.

        Args:
            diagonal: D^2 (p,).
            penalty: what is added to eigenvalues.
        """
        return DiagonalFactor((self.values + penalty) * diagonal.to(self.values))

    def solve(self, rows: Float[Tensor, "k p"]) -> Float[Tensor, "k p"]:
        return rows / self.values

    def quadratic(self, rows: Float[Tensor, "k p"]) -> Float[Tensor, " k"]:
        return (rows.square() / self.values).sum(1)

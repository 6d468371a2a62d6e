"""Arnoldi: the inverse on the leading eigenvectors, as Schioppa et al. (2022) use it for influence."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ..curvature.base import Curvature
from ..linalg.low_rank import LowRankFactor
from ..types import Tensor
from .accuracy import bound, checked, own_operator
from .base import Inverse, Solution, Solver, Status


@dataclass(frozen=True)
class Arnoldi(Solver):
    """The inverse on the eigenvectors of largest eigenvalues; everywhere else A is taken for the smallest of these.

    Products are taken one at a time by Lanczos (SciPy's ARPACK), about 3 `rank` of them, once for all right-hand sides.
    Memory: 3 rank p numbers in float64. The status is "estimated": no tolerance is met, the recomputed residual of each
    row says how much of it lies outside the eigenvectors kept. ConjugateGradient gives the exact answer, and with a
    Nystrom preconditioner it shares these directions just the same.

    Args:
        rank: how many eigenpairs are kept, at most p.
        seed: of the random start of Lanczos.

    Raises:
        ValueError: for rank < 1.
        IndefiniteError: at `prepare`, where one of the eigenvalues kept is not positive.

    >>> import torch
    >>> from upweight import Dense
    >>> inverse = Arnoldi(rank=1).prepare(Dense(torch.diag(torch.tensor([8.0, 2.0, 1.0]))))
    >>> inverse(torch.eye(3)[:1]).value.abs()
    tensor([[0.1250, 0.0000, 0.0000]])
    """

    rank: int = 50
    seed: int = 0

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ValueError(f"rank must be >= 1, got {self.rank}")

    def prepare(self, curvature: Curvature) -> Inverse:
        values, vectors = curvature.eigenpairs(self.rank, self.seed)
        factor = LowRankFactor(vectors.to(curvature.dtype), values.to(curvature.dtype))
        there, operator = curvature.coordinates, own_operator(curvature)
        energy = bound(curvature, operator)

        def solve(rows: Tensor) -> Solution:
            value = factor.solve(rows)
            found = checked(operator, energy, there.parameters(value), there.inward(rows))
            steps = torch.full((len(rows),), len(values))
            return Solution(value, found.residual, steps, (Status.ESTIMATED,) * len(rows), error=found.error)

        return Inverse(curvature, solve, factor.quadratic)

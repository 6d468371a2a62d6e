"""One factorisation, then every answer at the price of two triangular solves."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ..curvature import Curvature
from ..types import Tensor
from .base import Inverse, Solution, Solver, Status, relative_residual

ROUNDING = 100
"""Residuals are not asked to be below this many rounding units of the curvature's precision."""


@dataclass(frozen=True)
class Exact(Solver):
    """Cholesky on the primal or, with fewer rows than parameters, the dual side; closed forms where there are any.

    A row whose recomputed residual exceeds `rtol` (or 1.2e-5 in float32) after one refinement is "not converged":
    ill-conditioned.
    Residuals are those of the explicit matrix, where there is one. Memory: 2 p^2 numbers of the curvature's precision.

    >>> import torch
    >>> from upweight import Dense
    >>> Exact().prepare(Dense(4 * torch.eye(2)))(torch.ones(1, 2)).value
    tensor([[0.2500, 0.2500]])
    """

    rtol: float = 1e-6

    def prepare(self, curvature: Curvature) -> Inverse:
        factor = curvature.factor()
        operator = factor.product or curvature.operator()
        rtol = max(self.rtol, ROUNDING * torch.finfo(curvature.dtype).eps)

        def solve(rows: Tensor) -> Solution:
            value = factor.solve(rows)
            residual = relative_residual(operator, value, rows)
            if bool((residual > rtol).any()):
                value = value + factor.solve(rows - operator(value))
                residual = relative_residual(operator, value, rows)
            status = tuple(Status.CONVERGED if r <= rtol else Status.NOT_CONVERGED for r in residual.tolist())
            return Solution(value, residual, torch.ones(len(rows), dtype=torch.long), status)

        return Inverse(curvature, solve, factor.quadratic)

"""One factorisation, then every answer at the price of two triangular solves."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ..curvature.base import Curvature
from ..types import Tensor
from .base import Inverse, Solution, Solver, Status, relative_residual

ROUNDING = 10
"""Residuals are not asked to be below this many rounding units of the precision that they are recomputed in."""


@dataclass(frozen=True)
class Exact(Solver):
    """The exact inverse: Cholesky on the primal or, with fewer rows than parameters, the dual side, or a closed form.

    One factorisation, p^3 / 3 operations, then p^2 per right-hand side; memory 2 p^2 numbers of the curvature's
    precision. It is the best choice up to about 10,000 parameters. A row whose recomputed residual exceeds `rtol` after
    one refinement is "not converged" (ill-conditioned). Residuals are those of the explicit matrix, where there is one.

    Args:
        rtol: the largest relative residual that counts as converged; recomputed in float32 at least 1.2e-6.

    >>> import torch
    >>> from upweight import Dense
    >>> Exact().prepare(Dense(4 * torch.eye(2)))(torch.ones(1, 2)).value
    tensor([[0.2500, 0.2500]])
    """

    rtol: float = 1e-6

    def prepare(self, curvature: Curvature) -> Inverse:
        factor = curvature.factor()
        operator = factor.product or curvature.operator()
        # In the factor's precision, which may be above the problem's; residuals are known before the answer is rounded.
        dtype = curvature.dtype if factor.product is None else factor.dtype
        rtol = max(self.rtol, ROUNDING * torch.finfo(dtype).eps)

        def solve(rows: Tensor) -> Solution:
            wide = rows.to(dtype)
            value = factor.solve(wide)
            residual = relative_residual(operator, value, wide)
            if bool((residual > rtol).any()):
                value = value + factor.solve(wide - operator(value))
                residual = relative_residual(operator, value, wide)
            status = tuple(Status.CONVERGED if r <= rtol else Status.NOT_CONVERGED for r in residual.tolist())
            steps = torch.ones(len(rows), dtype=torch.long)
            return Solution(value.to(rows.dtype), residual.to(rows.dtype), steps, status)

        def quadratic(rows: Tensor) -> Tensor:
            return factor.quadratic(rows.to(dtype)).to(rows.dtype)

        return Inverse(curvature, solve, quadratic, exact=True)

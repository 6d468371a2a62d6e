"""One factorisation, then every answer at the price of two triangular solves."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ..curvature.base import Curvature
from ..linalg.coordinates import power_of_two
from ..types import Tensor
from .accuracy import ACCURATE, Checked, checked, of_factor, relative_size
from .base import Inverse, Solution, Solver, Status

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
        core, there = factor.core, factor.coordinates
        operator = core.product or curvature.operator()
        # In the factor's precision, which may be above the problem's; residuals are known before the answer is rounded.
        dtype = curvature.dtype if core.product is None else factor.dtype
        rtol = max(self.rtol, ROUNDING * torch.finfo(dtype).eps)
        unit = torch.ones(()) if core.diagonal is None else power_of_two(core.diagonal.sqrt())
        energy = of_factor(factor)

        def look(value: Tensor, rows: Tensor) -> Checked:
            found = checked(operator, energy, value, rows)
            return found._replace(residual=relative_size(found.left * unit, rows * unit))

        def solve(rows: Tensor) -> Solution:
            inside = there.inward(rows.to(dtype))
            value = core.solve(inside)
            found = look(value, inside)
            if not bool(_good(found, rtol).all()):
                value = value + core.solve(found.left)
                found = look(value, inside)
            good = _good(found, rtol).tolist()
            status = tuple(Status.CONVERGED if ok else Status.NOT_CONVERGED for ok in good)
            steps = torch.ones(len(rows), dtype=torch.long)
            answer = there.outward(value).to(rows.dtype)
            residual, error = found.residual.to(rows.dtype), found.error.to(rows.dtype)
            return Solution(answer, residual, steps, status, error=error)

        def quadratic(rows: Tensor) -> Tensor:
            return factor.quadratic(rows.to(dtype)).to(rows.dtype)

        return Inverse(curvature, solve, quadratic, exact=True)


def _good(found: Checked, rtol: float) -> Tensor:
    """Which answers meet the tolerance, with a bound of their error that does not speak against them."""
    return (found.residual <= rtol) & (found.error <= max(ACCURATE, rtol))

"""When a gradient is small, whatever the units of columns, targets and losses."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float

from ..objective import LinearModel
from ..types import Tensor
from .second_derivative import rows_at_once

ROUNDING = 1e-12
"""Residuals below this share of what they are differences of count as rounding."""
AIM, ENOUGH = 1e-8, 1e-6
"""The share of one example's contribution at which training ends, and which is enough where rounding allows no less."""


@dataclass(frozen=True, eq=False)
class GradientScale:
    """What gradients of R are measured by: one example's own contribution, each entry by its parameter's curvature.

    The size of a gradient g is sqrt(sum_j g_j^2 / H_jj), the root of a loss: a column in cents instead of dollars
    changes nothing. It is stated as a share of the root mean square of the same size of w_i grad l_i / n.

    >>> from upweight import LinearProblem, Squared
    >>> X, y = torch.tensor([[1.0, 1e6], [2.0, -1e6], [1.5, 1e6]]), torch.tensor([1.0, 2.0, 4.0])
    >>> problem = LinearProblem(X, y, [0.0, 0.0], loss=Squared())
    >>> bool(GradientScale.of(problem).share(problem.gradient()[None]) > 1)
    True
    """

    curvature: Float[Tensor, " p"]
    """The diagonal of the Hessian."""
    one: float
    """The size of one example's contribution."""

    @classmethod
    def of(cls, problem: LinearModel) -> GradientScale:
        """The scale at the problem's parameters, by two passes over X."""
        curvature, squared = problem.hessian.diagonal(), residuals(problem).square()
        assert curvature is not None
        sums = torch.zeros(problem.c, problem.d, dtype=torch.float64)
        for rows, block in problem.design.blocks(rows_at_once(problem.d), torch.float64):
            sums += block.squares(squared[rows])
        gradients = torch.cat([sums.flatten(), *([squared.sum(0)] if problem.has_intercept else [])])
        one = torch.where(curvature > 0, gradients / curvature, 0.0).sum().div(problem.n).sqrt() / problem.n
        return cls(curvature, max(float(one), 1e-300))

    def share(self, gradients: Float[Tensor, "k p"]) -> Float[Tensor, " k"]:
        """The size of each gradient as a share of one example's contribution; infinite where there is no curvature."""
        parts = gradients.double().square() / self.curvature
        return torch.where(gradients == 0, 0.0, parts).sum(1).sqrt() / self.one


def residuals(problem: LinearModel) -> Float[Tensor, "n c"]:
    """The derivatives w_i l' of the losses in the outputs by size, at least their rounding, all an exact fit leaves."""
    parts = problem.derivatives()
    unit = 1 + parts.loss[:, None]  # of a class, a loss of 1
    if not problem.loss.classifies:
        unit = parts.a * problem.y.double().view(problem.n, -1).square().mean().sqrt()
    return torch.maximum(parts.r.abs(), ROUNDING * unit)

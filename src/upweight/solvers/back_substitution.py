"""Stage by stage, backwards: the solver of models that were trained in stages."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ..curvature.base import Curvature
from ..types import Tensor
from .base import Inverse, Solution, Solver, Status


@dataclass(frozen=True)
class BackSubstitution(Solver):
    """The exact solve of a triangular matrix, stage by stage: what boosted trees are answered with.

    One pass over the rounds for all right-hand sides. Residuals v - A^T s are seen along one random vector z, as
    z . v - (A z) . s, since A z costs a pass, once: one in a thousand is a thousand times smaller along it. Of A itself
    they are computed whole.

    Args:
        rtol: the largest relative residual that counts as converged.
        seed: of the random vector.
    """

    rtol: float = 1e-6
    seed: int = 0

    def prepare(self, curvature: Curvature) -> Inverse:
        stages = curvature.stages
        if stages is None:
            raise TypeError(
                f"BackSubstitution is for models that were trained in stages, and {type(curvature).__name__} is a "
                "symmetric matrix: take Exact or ConjugateGradient"
            )
        free = stages.free()
        z = free * torch.randn(curvature.p, generator=torch.Generator().manual_seed(self.seed)).to(free)
        seen = stages.product(z[None])[0]

        def ended(value: Tensor, residual: Tensor) -> Solution:
            good = (residual <= self.rtol).tolist()
            status = tuple(Status.CONVERGED if ok else Status.NOT_CONVERGED for ok in good)
            steps = torch.ones(len(value), dtype=torch.long)
            return Solution(
                value, residual, steps, status, told="leaf values were followed through all rounds"
            )

        def backwards(rows: Tensor) -> Solution:
            value = stages.solve_transposed(rows)
            left = (rows @ z - value @ seen).abs()
            return ended(value, left / (rows * free).norm(dim=1).clamp(min=torch.finfo(rows.dtype).tiny))

        def forwards(rows: Tensor) -> Solution:
            value = stages.solve(rows)
            left = ((rows - stages.product(value)) * free).norm(dim=1)
            return ended(value, left / (rows * free).norm(dim=1).clamp(min=torch.finfo(rows.dtype).tiny))

        return Inverse(curvature, backwards if curvature.adjoint else forwards)

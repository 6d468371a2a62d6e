"""What takes the place of a curvature where a model was trained stage by stage."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch

from ..capabilities import Stages
from ..errors import InfluenceError
from ..linalg.factorizations import Factor
from ..types import Operator
from .base import ProblemCurvature


@dataclass(frozen=True, eq=False)
class Stagewise(ProblemCurvature):
    """The derivatives A of the equations that boosting solved, lower triangular by rounds: it has no Hessian.

    Questions about measures are solved with the transpose A^T, from the last round to the first, moves of the
    parameters with A itself (`transposed`). There is no damping, since nothing of it is singular.

    Args:
        problem: a problem with stages, as `from_estimator` gives for boosted trees.
        damping: 0.
        adjoint: whether the matrix is A^T.

    Raises:
        ValueError: for damping.
        TypeError: for a problem without stages.
    """

    adjoint: bool = True

    def __post_init__(self) -> None:
        if self.damping != 0:
            raise ValueError(
                f"boosted trees have no curvature to be damped, got damping {self.damping}: their own lambda or "
                "l2_leaf_reg is part of the equations already"
            )
        if self.problem.stages is None:
            raise TypeError(
                f"Stagewise is for models that were trained in stages, not for a {type(self.problem).__name__}: take "
                "Hessian or GaussNewton"
            )

    @property
    def stages(self) -> Stages:
        assert self.problem.stages is not None
        return self.problem.stages

    @property
    def transposed(self) -> Stagewise:
        return dataclasses.replace(self, adjoint=not self.adjoint)

    @property
    def semidefinite(self) -> bool:
        return True

    def damped(self, damping: float) -> Stagewise:
        return dataclasses.replace(self, damping=damping)

    def operator(self, dtype: torch.dtype | None = None) -> Operator:
        if self.adjoint:
            raise InfluenceError(NOT_SYMMETRIC)
        return self.stages.product

    def factor(self, dtype: torch.dtype | None = None) -> Factor:
        raise InfluenceError(NOT_SYMMETRIC)

    def fingerprint(self) -> str:
        return f"Stagewise({self.problem.fingerprint()})"


NOT_SYMMETRIC = (
    "the matrix of a model that was trained in stages is triangular, not symmetric: leave curvature and solver out, "
    "or give BackSubstitution()"
)

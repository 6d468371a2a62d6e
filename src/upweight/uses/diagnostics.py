"""The diagnostics that statisticians know, of every training row or group: leverage, Cook's distance, DFBETAS, ..."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float

from ..curvature.base import ExampleMean
from ..data.row_sets import as_sets
from ..influence.influence import Influence
from ..influence.woodbury import newton_steps
from ..objective import LinearModel
from ..runtime.notebook import as_html
from ..runtime.terminal import plain
from ..types import Tensor
from .labels import row_names
from .parts import part_names

ROWS = 1024
"""Rows whose gradients are written out at once."""


@dataclass(frozen=True, eq=False)
class Diagnostics:
    """How much each training row (or group of rows) pulls on the model, in the measures of regression diagnostics.

    `table` has a line per row or group: its number of "rows", "leverage" (the share of its own fit, summed in groups),
    "cooks distance" and "covratio"; of rows also "residual" (Pearson's), "standardised" and "studentised" (the residual
    over its standard deviation, internally with the scale s of all rows, externally with that of all others) and
    "dffits". `dfbetas` has a column per coefficient: with less without, in standard errors with
    the scale of the other rows. NaN where a row or group alone determines something.

    `parameters` is the sum of all leverages, the number of coefficients where there is no penalty. `scale` is s.
    """

    table: pd.DataFrame
    dfbetas: pd.DataFrame
    parameters: float
    scale: float

    def __repr__(self) -> str:
        return plain(f"{self._words()}\n{self._strongest().to_string()}")

    def _repr_html_(self) -> str:
        return as_html(self._words(), self._strongest())

    def _strongest(self) -> pd.DataFrame:
        return self.table.sort_values("cooks distance", ascending=False, kind="stable").head(10)

    def _words(self) -> str:
        mean = self.parameters / self.table["rows"].sum()
        return (
            f"Diagnostics of {len(self.table)} {self.table.index.name or 'group'}s, the largest Cook's distance first "
            f"(effective parameters {self.parameters:.4g}, a mean leverage of {mean:.3g}; scale {self.scale:.4g})"
        )


def diagnostics(influence: Influence, by: Any = None) -> Diagnostics:
    """Leverage, Cook's distance, DFBETAS, DFFITS, studentised residuals and COVRATIO of every training row or group.

    Of least squares all are exact, as refits without the row give them; sample weights are those of weighted least
    squares (variances 1 / w). Of logistic regression each is that of one Newton step, with a scale of 1, as usual. With
    a penalty the refit keeps it (`keep`), and the sum of the leverages takes the place of the number of coefficients.

    Args:
        influence: of a linear model of one output: least squares, ridge or logistic regression.
        by: groups in place of rows, as `Influence.of_removal` takes them: a column (n,) of patients or clusters.

    Raises:
        TypeError: for models that are not linear.
        ValueError: for several outputs, and losses without a likelihood.

    >>> import torch
    >>> from upweight import LinearProblem, Squared
    >>> X, y = torch.tensor([[1.0, 0], [1, 1], [1, 2], [1, 9]]), torch.tensor([0.0, 1, 1, 9])
    >>> found = diagnostics(Influence(LinearProblem.fit(X, y, loss=Squared())))
    >>> found.table["leverage"].round(2).tolist(), found.parameters
    ([0.43, 0.33, 0.27, 0.97], 2.0)
    """
    problem, curvature = influence.problem.linear, influence.settings.curvature.examples
    if problem is None or curvature is None:
        raise TypeError(
            "diagnostics are for linear models with their Hessian: of networks ask influence.on_self()"
        )
    problem.check_current()
    parts = problem.derivatives()
    squares = _is_least_squares(problem)
    every = torch.arange(problem.n)
    names, sets = row_names(problem, every), list(every.split(1))
    if by is not None:
        names, sets = as_sets(by, problem.n, problem.train_index)
    residuals = torch.where(parts.a[:, 0] > 0, -parts.r[:, 0] / parts.a[:, 0].sqrt(), 0)
    data = problem.hessian.matrix(torch.float64) * problem.n - torch.diag(problem.l2 * problem.n)
    moves, leverage, left = _without(problem, curvature, sets)
    covariance = influence.solve(torch.eye(problem.p, dtype=torch.float64)).value / problem.n
    used = float((data * covariance).sum())
    count = int((problem.weights > 0).sum())
    scale, alone = torch.tensor(1.0).double(), torch.ones(len(sets)).double()
    if squares:
        scale = (residuals.square().sum() / (count - used)).sqrt()
        alone = _scales_without(problem, sets, moves, data, count - used)
    root = (1 - leverage).sqrt()
    of_rows: dict[str, Tensor] = {}
    if by is None:
        of_rows = {
            "residual": residuals,
            "standardised": residuals / (scale * root),
            "studentised": residuals / (alone * root),
            "dffits": residuals * leverage.sqrt() / (alone * root**2),
        }
    found = {
        "rows": torch.tensor([len(rows) for rows in sets]),
        "leverage": leverage,
        **of_rows,
        "cooks distance": ((moves @ data) * moves).sum(1) / (used * scale**2),
        "covratio": (alone / scale) ** (2 * used) / left,
    }
    table = pd.DataFrame({name: values.numpy() for name, values in found.items()}, index=names)
    table.loc[moves.isnan().any(1).numpy(), table.columns.difference(["rows", "leverage", "residual"])] = (
        np.nan
    )
    betas = (-moves / (alone[:, None] * covariance.diagonal().sqrt())).numpy()
    coefficients = part_names(problem)[: problem.p]
    return Diagnostics(table, pd.DataFrame(betas, names, coefficients), used, float(scale))


def _without(
    problem: LinearModel, curvature: ExampleMean, sets: list[Tensor]
) -> tuple[Float[Tensor, "G p"], Float[Tensor, " G"], Float[Tensor, " G"]]:
    """What leaving out each set does: to the parameters, its leverage, and the share of det X^T W X that is left."""
    moves = torch.empty(len(sets), problem.p, dtype=torch.float64)
    leverage, left = torch.empty(2, len(sets), dtype=torch.float64)
    for batch, inverse, step in newton_steps(problem, curvature, sets, "diagnostics"):
        moves[batch] = step
        leverage[batch] = inverse.overlap.diagonal(dim1=1, dim2=2).sum(1)
        left[batch] = torch.linalg.det(torch.eye(inverse.overlap.shape[1]) - inverse.overlap)
    return moves, leverage, left


def _is_least_squares(problem: LinearModel) -> bool:
    """Whether the scale is estimated from residuals; raises ValueError where diagnostics have no meaning."""
    if problem.c > 1:
        raise ValueError(
            f"diagnostics are about one output, the model has {problem.c}: ask influence.leave_one_out()"
        )
    if torch.equal(problem.derivatives().a[:, 0], problem.weights) and not problem.loss.classifies:
        return True
    if not problem.loss.likelihood:
        raise ValueError(
            f"diagnostics are about least squares and logistic regression, not {type(problem.loss).__name__}: "
            "ask influence.leave_one_out()"
        )
    return False


def _scales_without(
    problem: LinearModel,
    sets: list[Tensor],
    moves: Float[Tensor, "G p"],
    data: Float[Tensor, "p p"],
    freedom: float,
) -> Float[Tensor, " G"]:
    """The scale s of least squares fitted without each set, from its residuals on all other rows.

    Args:
        problem: the model.
        sets: the rows of each set.
        moves: what leaving it out does to the parameters.
        data: X^T W X.
        freedom: the degrees of freedom of all rows.
    """
    eta, w = problem.outputs()[:, 0], problem.weights
    pull = (problem.gradient() - problem.penalty.gradient(problem.theta)) * problem.n
    total = (w * (eta - problem.y[:, 0]).square()).sum() + 2 * moves @ pull + ((moves @ data) * moves).sum(1)
    own = torch.zeros(len(sets), dtype=torch.float64)
    owners = torch.arange(len(sets)).repeat_interleave(torch.tensor([len(rows) for rows in sets]))
    for rows, owner in zip(torch.cat(sets).split(ROWS), owners.split(ROWS), strict=True):
        gradients = problem.output_gradients(problem.train_batch(rows))[:, 0]
        off = eta[rows] - problem.y[rows, 0] + (gradients * moves[owner]).sum(1)
        own.index_add_(0, owner, w[rows] * off.square())
    gone = torch.tensor([int((w[rows] > 0).sum()) for rows in sets]).double()
    return ((total - own) / (freedom - gone)).clamp(min=0).sqrt()

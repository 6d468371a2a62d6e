"""Linear models of one output in coordinates in which the Hessian of the total objective is the identity."""

from __future__ import annotations

from dataclasses import dataclass

import scipy.linalg
import torch
from jaxtyping import Float, Int

from ..objective import LinearModel
from ..types import Tensor

COLLINEAR = 1e-10
"""What is left of a column that the others explain, as a share: below this it counts as nothing."""
PARTNER = 1e-6
"""The least share of a column in a combination that vanishes for it to be named."""


@dataclass(frozen=True, eq=False)
class Whitened:
    """The rows x~_i = sqrt(a_i) R^-T x_i of a linear model of one output, A = R^T R the Hessian of its total objective.

    a_i are the curvatures w_i l''_i, and `residual` is -w_i l'_i / sqrt(a_i): of least squares sqrt(w_i) (y_i - x_i
    theta) at its exact minimum, which is computed here; of other losses at the problem's own parameters. `spread` are
    R^-T x_i themselves, 0 where a row has no weight. `counted` is what each row counts for in the degrees of freedom.
    `columns` are those that are kept, all unless `reduced`. `pull` is the gradient that is left of the total objective.
    """

    rows: Float[Tensor, "n p"]
    residual: Float[Tensor, " n"]
    root: Float[Tensor, "p p"]
    theta: Float[Tensor, " p"]
    counted: Float[Tensor, " n"]
    columns: Int[Tensor, " p"]
    spread: Float[Tensor, "n p"]
    pull: Float[Tensor, " p"]

    @classmethod
    def of(cls, problem: LinearModel, *, reduced: bool = False) -> Whitened:
        """The problem in these coordinates, by QR decomposition of its weighted rows.

        Args:
            problem: a model of one output, other than least squares at its optimum.
            reduced: whether columns that others explain are left out, which changes nothing that the data determine.

        Raises:
            ValueError: where columns are collinear, with their names, unless `reduced`.
        """
        parts = problem.derivatives()
        roots = parts.a[:, 0].sqrt()
        residual = _over(-parts.r[:, 0], roots)
        X = problem.design.block(slice(None), torch.float64).dense()
        if problem.has_intercept:
            X = torch.cat([X, X.new_ones(len(X), 1)], dim=1)
        X = X * roots[:, None]
        penalty = torch.diag((problem.l2 * problem.n).sqrt())[problem.l2 > 0]
        whole = torch.cat([X, penalty])
        sizes = whole.norm(dim=0)
        kept, partners = _independent(whole / torch.where(sizes > 0, sizes, 1.0))
        if len(partners) and not reduced:
            known = [*(problem.feature_names or [f"column {j}" for j in range(problem.d)]), "the intercept"]
            names = ", ".join(known[j] for j in partners)
            raise ValueError(
                f"{names} are collinear: the data do not tell their coefficients apart, so that "
                "nothing can be said of them; leave one of them out, or train with a penalty (l2 > 0)"
            )
        Q, R = torch.linalg.qr(whole[:, kept])
        theta, pull = problem.theta[kept], torch.zeros(len(kept), dtype=torch.float64)
        if is_least_squares(problem):
            target = torch.cat([X @ problem.theta + residual, residual.new_zeros(len(penalty))])
            fitted = Q.T @ target
            theta = torch.linalg.solve_triangular(R, fitted[:, None], upper=True)[:, 0]
            residual = (target - Q @ fitted)[: len(X)]
        else:
            gradient = problem.gradient()[kept, None] * problem.n
            pull = torch.linalg.solve_triangular(R.T, gradient, upper=False)[:, 0]
        rows = Q[: len(X)]
        counted = problem.weights if problem.loss.repeated else (problem.weights > 0).double()
        return cls(rows, residual, R, theta, counted, kept, _over(rows, roots[:, None]), pull)

    def direction(self, a: Float[Tensor, " q"]) -> Float[Tensor, " p"]:
        """The vector v = R^-T a of a linear function of all q parameters with gradient `a`, in these coordinates.

        Row i moves the function by z_i = x~_i . v times its weighted residual, to first order.
        """
        return torch.linalg.solve_triangular(self.root.T, a[self.columns, None], upper=False)[:, 0]

    def value(self, a: Float[Tensor, " q"]) -> float:
        """The value a . theta of a linear function of all q parameters with gradient `a`, one number.

        Of columns that were left out (`reduced`) the coefficients are 0, which changes nothing that is determined.
        """
        return float(a[self.columns] @ self.theta)


def is_least_squares(problem: LinearModel) -> bool:
    """Whether a model is least squares of one output: its loss half the squared error, whatever its name.

    Then the Hessian does not depend on the parameters, and removals are exact in closed form. Huber's loss is none,
    even where all residuals are within delta: without a row others may be outside. It has no dispersion.
    """
    squares = problem.c == 1 and not problem.loss.classifies and problem.loss.dispersed
    return squares and torch.equal(problem.derivatives().a[:, 0], problem.weights)


def _over(x: Tensor, y: Tensor) -> Tensor:
    """The quotients x / y, and 0 where y is 0."""
    return torch.where(y > 0, x / torch.where(y > 0, y, 1.0), 0.0)


def _independent(scaled: Float[Tensor, "m p"]) -> tuple[Int[Tensor, " k"], list[int]]:
    """The columns that are not explained by others, and those of one combination that vanishes (none: []).

    The columns have norm 1, or 0.
    """
    R = torch.linalg.qr(scaled, mode="r").R
    R, order = scipy.linalg.qr(R.numpy(), mode="r", pivoting=True)
    left = abs(R.diagonal())
    free = int((left > COLLINEAR * max(left[0], 1e-300)).sum())
    kept = torch.from_numpy(order[:free].astype("int64")).sort().values
    if free == scaled.shape[1]:
        return kept, []
    combination = scipy.linalg.solve_triangular(R[:free, :free], R[:free, free])
    return kept, sorted([int(order[free]), *order[:free][abs(combination) > PARTNER].tolist()])

"""Least squares in coordinates in which the Hessian of its total objective is the identity."""

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
    """The rows x~_i = sqrt(w_i) R^-T x_i of a least squares problem, A = R^T R the Hessian of its total objective.

    The total objective is 1/2 sum_i w_i (x_i theta - y_i)^2 + 1/2 n sum_j l2_j theta_j^2. `residual` is sqrt(w_i) (y_i
    - x_i theta) at its exact minimum, which is computed here. `counted` is what each row counts for in the degrees of
    freedom: 1, or 0 where it has no weight. `columns` are those that are kept, all unless `reduced`.
    """

    rows: Float[Tensor, "n p"]
    residual: Float[Tensor, " n"]
    root: Float[Tensor, "p p"]
    theta: Float[Tensor, " p"]
    counted: Float[Tensor, " n"]
    columns: Int[Tensor, " p"]

    @classmethod
    def of(cls, problem: LinearModel, *, reduced: bool = False) -> Whitened:
        """The problem in these coordinates, by QR decomposition of its weighted rows.

        Args:
            problem: a least squares model.
            reduced: whether columns that others explain are left out, which changes nothing that the data determine.

        Raises:
            ValueError: where columns are collinear, with their names, unless `reduced`.
        """
        roots = problem.weights.sqrt()
        X = problem.design.block(slice(None), torch.float64).dense()
        if problem.has_intercept:
            X = torch.cat([X, X.new_ones(len(X), 1)], dim=1)
        X, y = X * roots[:, None], problem.y.double().flatten() * roots
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
        target = torch.cat([y, y.new_zeros(len(penalty))])
        fitted = Q.T @ target
        theta = torch.linalg.solve_triangular(R, fitted[:, None], upper=True)[:, 0]
        rows = Q[: len(X)]
        counted = problem.weights if problem.loss.repeated else (problem.weights > 0).double()
        return cls(rows, (target - Q @ fitted)[: len(X)], R, theta, counted, kept)

    def direction(self, a: Float[Tensor, " p"]) -> Float[Tensor, " p"]:
        """R^-T a: what a linear function of the parameters with gradient `a` (p,) is in these coordinates."""
        return torch.linalg.solve_triangular(self.root.T, a[self.columns, None], upper=False)[:, 0]

    def value(self, a: Float[Tensor, " p"]) -> float:
        """What a linear function of the parameters is, a . theta."""
        return float(a[self.columns] @ self.theta)


def _independent(scaled: Float[Tensor, "m p"]) -> tuple[Int[Tensor, " k"], list[int]]:
    """The columns that are not explained by others, and those of one combination that vanishes (none: []).

    The columns have norm 1, or 0.
    """
    _, R, order = scipy.linalg.qr(scaled.numpy(), mode="economic", pivoting=True)
    left = abs(R.diagonal())
    free = int((left > COLLINEAR * max(left[0], 1e-300)).sum())
    kept = torch.from_numpy(order[:free].astype("int64")).sort().values
    if free == scaled.shape[1]:
        return kept, []
    combination = scipy.linalg.solve_triangular(R[:free, :free], R[:free, free])
    return kept, sorted([int(order[free]), *order[:free][abs(combination) > PARTNER].tolist()])

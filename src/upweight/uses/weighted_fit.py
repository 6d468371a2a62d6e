"""Least squares and two-stage least squares as a function of the rows' weights: a coefficient and its error."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from jaxtyping import Float, Int

from ..data.user_terms import Terms
from ..likelihood.partialled import without_effects
from ..linear.problem import LinearProblem
from ..linear.whitened import is_least_squares
from ..losses import Squared
from ..objective import Objective
from ..types import Tensor
from .conclusions import Moments
from .standard_errors import Counts, Errors, SmallSample

NORMAL = 1e15
"""Degrees of freedom that stand for the normal distribution."""
COLLINEAR = 1e-12
"""What is left of a column's squares that the others explain, as a share: below this nothing is determined."""


class Told(NamedTuple):
    """A linear function of the coefficients, its standard error, and the degrees of freedom of its t."""

    estimate: Tensor
    error: Tensor
    freedom: Tensor

    def seen_from(self, bar: float, side: float) -> Told:
        """What is told of the distance from a bar, on one side of it (1 or -1), in the place of the number itself."""
        return self._replace(estimate=side * (self.estimate - bar))

    @property
    def moments(self) -> Moments:
        """What conclusions look at, which holds the same three numbers."""
        one = torch.ones_like(self.estimate)
        return Moments(self.estimate, self.error.square() * self.freedom, one, self.freedom)


@dataclass(frozen=True, eq=False)
class WeightedFit:
    """A regression by its columns: at weights of 0 for some rows it is the refit without them, effects and counts too.

    Args:
        X: regressors (n, k), an intercept among them.
        y: targets (n,).
        weights: the weights of the rows (n,).
        counted: what each row counts for (n,).
        codes: the group of each row in each absorbed effect (n, q).
        instruments: all instruments (n, z), or None.
    """

    X: Float[Tensor, "n k"]
    y: Float[Tensor, " n"]
    weights: Float[Tensor, " n"]
    counted: Float[Tensor, " n"]
    codes: Int[Tensor, "n q"]
    instruments: Float[Tensor, "n z"] | None = None

    @classmethod
    def of(cls, problem: Objective) -> WeightedFit | None:
        """The regression that a problem is, None where it is no least squares without a penalty."""
        linear, reduced = problem.linear, problem.reduced
        squares = None if reduced is None else reduced.squares
        if squares is not None:
            w = problem.sample_weights
            return cls(squares.X, squares.y[:, 0], w, (w > 0).double(), squares.codes, squares.instruments)
        if linear is None or not is_least_squares(linear):
            return None
        if bool((linear.l2 > 0).any()) or linear.penalty.slope is not None:
            return None
        X = linear.design.block(slice(None), torch.float64).dense()
        X = torch.cat([X, X.new_ones(len(X), 1)], 1) if linear.has_intercept else X
        parts, w = linear.derivatives(), linear.weights
        y = linear.outputs()[:, 0] - torch.where(w > 0, parts.r[:, 0] / torch.where(w > 0, w, 1.0), 0.0)
        counted = w if linear.loss.repeated else (w > 0).double()
        return cls(X, y, w, counted, torch.empty(len(X), 0, dtype=torch.int64))

    def whole_groups(self, units: Sequence[Tensor]) -> bool:
        """Whether there is one effect, and each of its groups lies in one of these units."""
        if self.codes.shape[1] != 1:
            return False
        owner = torch.empty(len(self.y), dtype=torch.int64)
        for unit, rows in enumerate(units):
            owner[rows] = unit
        groups = self.codes[:, 0]
        last = torch.zeros(int(groups.max()) + 1, dtype=torch.int64).index_put((groups,), owner)
        return bool((last[groups] == owner).all())

    def within(self, problem: Objective) -> LinearProblem:
        """The least squares of columns less their means in each group, with the same coefficients."""
        columns = without_effects(torch.cat([self.X, self.y[:, None]], 1), self.codes, self.weights)
        terms = Terms(feature_names=problem.feature_names, train_index=problem.train_index)
        start = torch.zeros(self.X.shape[1])
        return LinearProblem(
            columns[:, :-1],
            columns[:, -1],
            start,
            loss=Squared(),
            weights=self.weights,
            keep="total",
            terms=terms,
        )

    def refusal(self, errors: Errors) -> str:
        """Why such errors are none of this model, in a sentence; "" where they are."""
        if errors.kind in ("HC2", "HC3") and self.codes.shape[1]:
            return (
                "HC2 and HC3 beside absorbed effects are known of inference_without alone, and of few effects"
            )
        return ""

    def told(
        self,
        a: Float[Tensor, " k"],
        omega: Float[Tensor, " n"],
        errors: Errors,
        theta: Float[Tensor, " k"] | None = None,
    ) -> Told:
        """A linear function of the coefficients where each row's weight is multiplied, differentiable in omega.

        All are NaN where the coefficients are not determined.

        Args:
            a: its gradient.
            omega: what weights are multiplied with; 0: the row is not there.
            errors: which standard errors.
            theta: the coefficients at which it is taken; None: those of these weights.
        """
        w = self.weights * omega
        k = self.X.shape[1]
        columns = [self.X, self.y[:, None]]
        columns += [] if self.instruments is None else [self.instruments]
        within = without_effects(torch.cat(columns, 1), self.codes, w)
        X, y, Z = within[:, :k], within[:, k], within[:, k + 1 :]
        fitted = X
        if self.instruments is not None:
            weighted = w[:, None] * Z
            products = weighted.T @ Z
            if not _determined(products, self.instruments, w):
                return Told(*torch.full((3,), torch.nan, dtype=torch.float64))
            fitted = Z @ torch.linalg.solve(products, weighted.T @ X)
        A = fitted.T @ (w[:, None] * fitted)
        if not _determined(A, self.X, w):
            return Told(*torch.full((3,), torch.nan, dtype=torch.float64))
        theta = torch.linalg.solve(A, fitted.T @ (w * y)) if theta is None else theta
        q = torch.linalg.solve(A, a)
        e, z = y - X @ theta, fitted @ q
        return Told(
            a @ theta, self._error((z, e, fitted, A), w, (a @ q, omega), errors), self._freedom(omega, errors)
        )

    def _error(
        self,
        of_rows: tuple[Tensor, Tensor, Tensor, Tensor],
        w: Tensor,
        own: tuple[Tensor, Tensor],
        errors: Errors,
    ) -> Tensor:
        """The standard error.

        Args:
            of_rows: z and residuals of the rows, the fitted regressors, and their cross products.
            w: the weights of the rows.
            own: a^T A^-1 a, and what the weights are multiplied with.
            errors: which ones.
        """
        (z, e, fitted, A), (size, omega) = of_rows, own
        counting = self._counting(errors)
        kept = counting.kept((omega > 0).double()[:, None])
        counts = self._counts(omega, errors)
        counts = counts._replace(rows=(omega * kept[:, 0]) @ self.counted[:, None])
        factor = counting.factor(counts)[0]
        if errors.kind == "nonrobust":
            return (size * (w @ e.square()) / counts.rows[0] * factor).sqrt()
        scores = w * z * e
        codes = errors.codes
        if codes is not None:
            sums = scores.new_zeros(int(codes.max()) + 1).index_add(0, codes, scores)
            return (sums.square().sum() * factor).sqrt()
        power = {"HC2": 1, "HC3": 2}.get(errors.kind, 0)
        if power:
            h = self.weights * (torch.linalg.solve(A, fitted.T).T * fitted).sum(1)
            scores = scores / (1 - h).clamp(min=1e-300) ** (power / 2)
        share = torch.where(omega > 0, omega, 1.0)  # a row stands for omega rows
        return ((scores.square() / share).sum() * factor).sqrt()

    def _counts(self, omega: Tensor, errors: Errors) -> Counts:
        kept = (omega.detach() > 0).double()[:, None]
        p = torch.tensor(float(self.X.shape[1])).double()
        return self._counting(errors).counts(kept, errors.codes, p, self.counted)

    def _counting(self, errors: Errors) -> SmallSample:
        """What is counted: absorbed effects as coefficients, unless a package has its own rule."""
        counting = errors.counting
        if counting.groups is not None or not self.codes.shape[1]:
            return counting
        k = self.X.shape[1]
        return replace(counting, groups=self.codes, known=k, effects=counting.coefficients)

    def _freedom(self, omega: Tensor, errors: Errors) -> Tensor:
        found = self._counting(errors).freedom(self._counts(omega, errors))
        return torch.tensor(NORMAL, dtype=torch.float64) if found is None else found[0]


def _determined(
    products: Float[Tensor, "k k"], columns: Float[Tensor, "n k"], w: Float[Tensor, " n"]
) -> bool:
    """Whether cross products of columns are those of independent ones, and are not what rounding left of them."""
    with torch.no_grad():
        size, whole = products.diagonal(), w @ columns.square()
        if not bool((size > COLLINEAR * whole).all()):
            return False
        unit = size.rsqrt()
        return float(torch.linalg.eigvalsh(unit[:, None] * products * unit)[0]) > COLLINEAR

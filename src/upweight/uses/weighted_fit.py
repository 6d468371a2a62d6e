"""Least squares and two-stage least squares as a function of the rows' weights: a coefficient and its error."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float, Int

from ..likelihood.partialled import without_effects
from ..linear.whitened import is_least_squares
from ..objective import Objective
from ..types import Tensor
from .conclusions import Moments
from .standard_errors import Counts, Errors

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
        if linear is None or not is_least_squares(linear) or bool((linear.l2 > 0).any()):
            return None
        X = linear.design.block(slice(None), torch.float64).dense()
        X = torch.cat([X, X.new_ones(len(X), 1)], 1) if linear.has_intercept else X
        parts, w = linear.derivatives(), linear.weights
        y = linear.outputs()[:, 0] - torch.where(w > 0, parts.r[:, 0] / torch.where(w > 0, w, 1.0), 0.0)
        counted = w if linear.loss.repeated else (w > 0).double()
        return cls(X, y, w, counted, torch.empty(len(X), 0, dtype=torch.int64))

    def refusal(self, errors: Errors) -> str:
        """Why such errors are none of this model, in a sentence; "" where they are."""
        if errors.kind in ("HC2", "HC3") and self.codes.shape[1]:
            return "HC2 and HC3 beside absorbed effects are asked with inference_without"
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
        counting = errors.counting
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
        return errors.counting.counts(kept, errors.codes, p, self.counted)

    def _freedom(self, omega: Tensor, errors: Errors) -> Tensor:
        found = errors.counting.freedom(self._counts(omega, errors))
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

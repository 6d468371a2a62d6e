"""A coefficient's standard error, t, p and confidence interval without each training row."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from scipy import stats

from ..estimators.refitting import WRITTEN_OUT
from ..influence.unrolled import Answers
from ..linear.whitened import Whitened, is_least_squares
from ..objective import Objective
from ..runtime.notebook import as_html
from ..runtime.terminal import plain
from ..types import Tensor
from .conclusions import coefficient_of
from .general_fit import GeneralFit
from .labels import row_names
from .standard_errors import Counts, Errors
from .weighted_fit import NORMAL, WeightedFit

ALONE = 1e-10
"""What is left of a row's own fit below which it alone determines something."""
HARMLESS = 1e-7
"""The share of the direction asked about that counts as not touching it."""
NUMBERS = 1 << 22
"""Numbers of a block of rows times rows."""


@dataclass(frozen=True, eq=False)
class InferenceWithout:
    """A coefficient and its inference without each training row, exactly as refits give them.

    `table` has a line per row: "estimate", "standard error", "t", "p", "low" and "high" of the 95 % interval, and
    "derivative", that of the standard error in the row's weight, both terms: what the weight does by itself, and
    through the coefficients; removing the row changes the error by about minus that. NaN where the row alone determines
    something.
    `whole` are the numbers with all rows.
    """

    coefficient: str
    kind: str
    whole: dict[str, float]
    table: pd.DataFrame

    def __repr__(self) -> str:
        return plain(f"{self._words}\n{self._strongest.to_string()}")

    def _repr_html_(self) -> str:
        return as_html(self._words, self._strongest)

    @property
    def _strongest(self) -> pd.DataFrame:
        change = (self.table["t"] - self.whole["t"]).abs()
        return self.table.loc[change.sort_values(ascending=False, kind="stable").index].head(10)

    @property
    def _words(self) -> str:
        now = ", ".join(f"{name} {value:.4g}" for name, value in self.whole.items())
        return f"{self.coefficient} ({self.kind} errors): {now}. Without each row, the largest change of t first:"


def inference_without(
    influence: Answers, coefficient: str | int, errors: Errors | None = None
) -> InferenceWithout:
    """The standard error, t, p and interval of a coefficient without each training row, as refits give them.

    All are exact for least squares, from one factorisation: residuals, leverages and the scores of the rows that are
    left are those without the row. Weights are those of weighted least squares. Absorbed effects and both stages of
    two-stage least squares follow, and so do the counts that a package's factors are made of. Of these, and of
    generalised linear models, there is a refit without each row.

    Args:
        influence: of least squares of one output, two-stage least squares, or a generalised linear model of
            `from_results`, without a penalty.
        coefficient: the name or number of a column.
        errors: which standard errors, default the classical ones; `Errors.of(results)` reads them from results.

    Raises:
        TypeError: for other models.
        ValueError: with a penalty, for an unknown coefficient, collinear columns, clusters of another length.

    >>> import torch
    >>> from upweight import Influence, LinearProblem, Squared
    >>> problem = LinearProblem.fit(torch.ones(4, 1), torch.tensor([1.0, 2, 3, 6]), loss=Squared())
    >>> inference_without(Influence(problem), 0).table["standard error"].round(3).tolist()
    [1.202, 1.453, 1.528, 0.577]
    """
    influence.problem.check_current()
    errors = errors or Errors()
    reduced = influence.problem.reduced
    if reduced is not None and reduced.squares is not None and reduced.squares.instruments is not None:
        return _by_refits(influence.problem, coefficient, errors)
    written = influence.problem.cache.get(WRITTEN_OUT)
    problem = influence.problem.linear if written is None else written()
    if written is not None and problem is None:  # too many effects for columns of their own
        return _by_refits(influence.problem, coefficient, errors)
    if problem is not None and not is_least_squares(problem) and GeneralFit.of(problem) is not None:
        return _by_refits(problem, coefficient, errors)
    if problem is None or not is_least_squares(problem):
        raise TypeError("inference_without is for least squares of one output: of others ask diagnostics")
    if bool((problem.l2 > 0).any()):
        raise ValueError(
            "standard errors have no meaning with a penalty, which biases estimates: fit without"
        )
    errors.check_length(problem.n)
    whole = Whitened.of(problem)
    fit = _Fit(whole, coefficient_of(problem, coefficient), errors)
    index = row_names(problem, torch.arange(problem.n))
    table = pd.DataFrame(fit.without_each(), index=index)
    table["derivative"] = fit.derivative().numpy()
    return InferenceWithout(str(coefficient), errors.kind, fit.now(), table)


def _by_refits(problem: Objective, coefficient: str | int, errors: Errors) -> InferenceWithout:
    """The answer by a refit without each row: of two-stage least squares, and of generalised linear models."""
    errors.check_length(problem.n)
    fit, a = WeightedFit.of(problem) or GeneralFit.of(problem), coefficient_of(problem, coefficient)
    assert fit is not None
    if words := fit.refusal(errors):
        raise ValueError(words)
    ones, found = torch.ones(problem.n, dtype=torch.float64), []
    for row in range(problem.n):
        omega = ones.clone()
        omega[row] = 0.0
        found.append(fit.told(a, omega, errors))
    table = pd.DataFrame(told(*map(torch.stack, zip(*found, strict=True))))
    table.index = row_names(problem, torch.arange(problem.n))
    with torch.enable_grad():
        omega = ones.requires_grad_()
        now = fit.told(a, omega, errors)
        table["derivative"] = torch.autograd.grad(now.error, omega)[0].numpy()
    whole = told(*(one.detach()[None] for one in now))
    return InferenceWithout(str(coefficient), errors.kind, {k: float(v[0]) for k, v in whole.items()}, table)


def told(estimate: Tensor, error: Tensor, freedom: Tensor) -> dict[str, np.ndarray]:
    """The columns of an answer, of k fits.

    Args:
        estimate: the coefficient (k,).
        error: its standard error.
        freedom: the degrees of freedom of t, `NORMAL` for the normal distribution.
    """
    t, law = estimate / error, stats.t(freedom.numpy())
    half = torch.as_tensor(law.isf(0.025)) * error
    p = 2 * law.sf(t.abs().numpy())
    named = {"estimate": estimate, "standard error": error, "t": t, "p": torch.as_tensor(p)}
    named |= {"low": estimate - half, "high": estimate + half}
    return {name: values.numpy() for name, values in named.items()}


class _Fit:
    """Least squares in whitened coordinates, and what its rows say about one coefficient."""

    def __init__(self, whole: Whitened, a: Tensor, errors: Errors) -> None:
        self.whole, self.errors, self.codes = whole, errors, errors.codes
        self.v = whole.direction(a)
        self.z, self.estimate = whole.rows @ self.v, whole.value(a)
        self.h = whole.rows.square().sum(1)

    def now(self) -> dict[str, float]:
        """The numbers with all rows."""
        counts = self._counts(torch.ones(len(self.z), 1).double(), torch.tensor(0.0).double())
        of_rows = (self.z[:, None], self.whole.residual[:, None], self.h[:, None])
        variance = self._variance(of_rows, self.v.square().sum(), counts)
        found = self._told(torch.tensor([self.estimate], dtype=torch.float64), variance, counts)
        return {name: float(values[0]) for name, values in found.items()}

    def without_each(self) -> dict[str, np.ndarray]:
        """The numbers without each row: residuals, leverages and z of all others are those without it."""
        parts = []
        rows, r = self.whole.rows, self.whole.residual
        for out in torch.arange(len(rows)).split(max(1, NUMBERS // len(rows))):
            G, left = rows @ rows[out].T, 1 - self.h[out]
            alone = left <= ALONE
            # What a row alone determines leaves with it, and changes nothing where the coefficient is not in it.
            lost = alone & (self.z[out].abs() < HARMLESS * self.v.norm())
            left = torch.where(alone, torch.where(lost, 1.0, torch.nan), left)
            z = self.z[:, None] + G * (self.z[out] / left)
            e = r[:, None] + G * (r[out] / left)
            h = self.h[:, None] + G.square() / left
            place = torch.arange(len(out))
            kept = torch.ones_like(z)
            for one in (z, e, h, kept):
                one[out, place] = 0.0
            counts = self._counts(kept, lost.double())
            own = self.v.square().sum() + self.z[out].square() / left
            variance = self._variance((z, e, h), own, counts)
            parts.append(self._told(self.estimate - self.z[out] * r[out] / left, variance, counts))
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def _counts(self, kept: Float[Tensor, "n k"], lost: Tensor) -> Counts:
        """What is counted in k fits that have lost so many coefficients."""
        left = len(self.v) - lost
        return self.errors.counting.counts(kept, self.codes, left, self.whole.counted)

    def _variance(
        self,
        of_rows: tuple[Float[Tensor, "n k"], Float[Tensor, "n k"], Float[Tensor, "n k"]],
        own: Tensor,
        counts: Counts,
        weight: Tensor | None = None,
    ) -> Float[Tensor, " k"]:
        """The squared standard error of k fits.

        Args:
            of_rows: z, residuals and leverages; 0 for rows that are not in the fit.
            own: the squared length of the direction, a^T A^-1 a.
            counts: what is counted in each.
            weight: the weights of the rows (n, 1), for derivatives; None: 1.
        """
        (z, e, h), kind, factor = of_rows, self.errors.kind, self.errors.counting.factor(counts)
        weight = torch.ones_like(z[:, :1]) if weight is None else weight
        if kind == "nonrobust":
            return own * (weight * e.square()).sum(0) / counts.rows * factor
        scores = z * e
        if self.codes is not None:
            sums = torch.zeros(int(self.codes.max()) + 1, z.shape[1], dtype=torch.float64)
            return sums.index_add(0, self.codes, weight * scores).square().sum(0) * factor
        left, power = 1 - h, {"HC2": 1, "HC3": 2}.get(kind, 0)
        over = torch.where(left > ALONE, left, torch.nan) ** power if power else 1.0  # 0 / 0 has no value
        return (weight * scores.square() / over).sum(0) * factor

    def _told(self, estimate: Tensor, variance: Tensor, counts: Counts) -> dict[str, np.ndarray]:
        """The numbers of k fits."""
        freedom = self.errors.counting.freedom(counts)
        freedom = torch.full_like(estimate, NORMAL) if freedom is None else freedom.expand(len(estimate))
        return told(estimate, variance.sqrt(), freedom)

    def derivative(self) -> Float[Tensor, " n"]:
        """The derivative of the standard error in the weight of each row, at 1, by reverse differentiation.

        With weights omega the whitened Hessian is A = sum omega x~ x~^T; coefficients, residuals and leverages follow.
        """
        X, y = self.whole.rows, self.whole.residual
        with torch.enable_grad():
            omega = torch.ones(len(X), dtype=torch.float64, requires_grad=True)
            A = X.T @ (omega[:, None] * X)
            moved = torch.linalg.solve(A, X.T @ (omega * y))  # from the coefficients that there are
            q = torch.linalg.solve(A, self.v)
            e, z = y - X @ moved, X @ q
            h = (torch.linalg.solve(A, X.T).T * X).sum(1)
            counts = self._counts(torch.ones(len(X), 1).double(), torch.tensor(0.0).double())
            n = (
                omega * self.whole.counted * self.errors.counting.kept(torch.ones(len(X), 1).double())[:, 0]
            ).sum()
            counts = counts._replace(rows=n[None])
            variance = self._variance(
                (z[:, None], e[:, None], h[:, None]), self.v @ q, counts, omega[:, None]
            )
            variance.sqrt().sum().backward()
        assert omega.grad is not None
        return omega.grad

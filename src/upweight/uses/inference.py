"""A coefficient's standard error, t, p and confidence interval without each training row."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from scipy import stats

from ..influence.unrolled import Answers
from ..linear.whitened import Whitened, is_least_squares
from ..runtime.notebook import as_html
from ..runtime.terminal import plain
from ..types import Tensor
from .conclusions import coefficient_of
from .labels import row_names

KINDS = ("nonrobust", "HC0", "HC1", "HC2", "HC3", "cluster")
ALONE = 1e-10
"""What is left of a row's own fit below which it alone determines something."""
NUMBERS = 1 << 22
"""Numbers of a block of rows times rows."""


@dataclass(frozen=True, eq=False)
class Errors:
    """Which standard errors of least squares, with statsmodels' factors, and the distribution of t.

    "nonrobust" is s^2 (X^T W X)^-1 with n - k degrees of freedom; "HC0" to "HC3" are White's, HC1 times n / (n - k),
    HC2 and HC3 with residuals over the root of 1 - h and over 1 - h; "cluster" sums scores in clusters, times
    G / (G - 1) (n - 1) / (n - k). `use_t` takes Student's t in place of the normal distribution: with n - k degrees of
    freedom, of clusters G - 1; None: as statsmodels, for "nonrobust" only. What a removal does to n and G is followed.

    Args:
        kind: the name.
        clusters: of "cluster", the cluster of each row (n,).
        use_t: the distribution.
    """

    kind: str = "nonrobust"
    clusters: Any = None
    use_t: bool | None = None

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"kind must be one of {', '.join(KINDS)}, got {self.kind!r}")
        if (self.clusters is not None) != (self.kind == "cluster"):
            raise ValueError('clusters go with kind="cluster", and with no other')

    @classmethod
    def of(cls, results: Any) -> Errors:
        """The errors of fitted results of statsmodels (OLS, WLS), as their own `cov_type` says.

        Raises:
            ValueError: for a covariance that is not among these, or has other corrections than the usual ones.
        """
        kind, told = str(results.cov_type), dict(results.cov_kwds)
        if kind != "cluster":
            return cls(kind, use_t=bool(results.use_t))
        groups = np.asarray(told["groups"])
        if groups.ndim > 1 or not told.get("use_correction", True) or not told.get("df_correction", True):
            raise ValueError(
                "clusters in one direction, with their usual correction, are known: these are other ones"
            )
        return cls(kind, groups, bool(results.use_t))


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
    left are those without the row. Weights are those of weighted least squares.

    Args:
        influence: of least squares of one output, without a penalty.
        coefficient: the name or number of a column.
        errors: which standard errors, default the classical ones; `Errors.of(results)` reads them from statsmodels.

    Raises:
        TypeError: for other models.
        ValueError: with a penalty, for an unknown coefficient, collinear columns, clusters of another length.

    >>> import torch
    >>> from upweight import Influence, LinearProblem, Squared
    >>> problem = LinearProblem.fit(torch.ones(4, 1), torch.tensor([1.0, 2, 3, 6]), loss=Squared())
    >>> inference_without(Influence(problem), 0).table["standard error"].round(3).tolist()
    [1.202, 1.453, 1.528, 0.577]
    """
    problem = influence.problem.linear
    if problem is None or not is_least_squares(problem):
        raise TypeError("inference_without is for least squares of one output: of others ask diagnostics")
    problem.check_current()
    if bool((problem.l2 > 0).any()):
        raise ValueError(
            "standard errors have no meaning with a penalty, which biases estimates: fit without"
        )
    errors = errors or Errors()
    codes = None
    if errors.clusters is not None:
        codes = torch.from_numpy(pd.factorize(np.asarray(errors.clusters), use_na_sentinel=False)[0])
        if len(codes) != problem.n:
            raise ValueError(f"clusters must name one for each of {problem.n} rows, got {len(codes)}")
    whole = Whitened.of(problem)
    fit = _Fit(whole, coefficient_of(problem, coefficient), errors, codes)
    index = row_names(problem, torch.arange(problem.n))
    table = pd.DataFrame(fit.without_each(), index=index)
    table["derivative"] = fit.derivative().numpy()
    return InferenceWithout(str(coefficient), errors.kind, fit.now(), table)


class _Fit:
    """Least squares in whitened coordinates, and what its rows say about one coefficient."""

    def __init__(self, whole: Whitened, a: Tensor, errors: Errors, codes: Int[Tensor, " n"] | None) -> None:
        self.whole, self.errors, self.codes = whole, errors, codes
        self.v = whole.direction(a)
        self.z, self.estimate = whole.rows @ self.v, whole.value(a)
        self.h = whole.rows.square().sum(1)

    def now(self) -> dict[str, float]:
        """The numbers with all rows."""
        n, clusters = self.whole.counted.sum(), self._clusters(torch.ones(len(self.z), 1).double())
        variance = self._variance(
            (self.z[:, None], self.whole.residual[:, None], self.h[:, None]),
            self.v.square().sum(),
            n,
            clusters,
        )
        found = self._told(torch.tensor([self.estimate], dtype=torch.float64), variance, n, clusters)
        return {name: float(values[0]) for name, values in found.items()}

    def without_each(self) -> dict[str, np.ndarray]:
        """The numbers without each row: residuals, leverages and z of all others are those without it."""
        parts = []
        rows, r = self.whole.rows, self.whole.residual
        for out in torch.arange(len(rows)).split(max(1, NUMBERS // len(rows))):
            G, left = rows @ rows[out].T, 1 - self.h[out]
            left = torch.where(left > ALONE, left, torch.nan)
            z = self.z[:, None] + G * (self.z[out] / left)
            e = r[:, None] + G * (r[out] / left)
            h = self.h[:, None] + G.square() / left
            place = torch.arange(len(out))
            for one in (z, e, h):
                one[out, place] = 0.0
            kept = torch.ones_like(z)
            kept[out, place] = 0.0
            n = self.whole.counted.sum() - self.whole.counted[out]
            clusters = self._clusters(kept)
            variance = self._variance(
                (z, e, h), self.v.square().sum() + self.z[out].square() / left, n, clusters
            )
            estimate = self.estimate - self.z[out] * r[out] / left
            parts.append(self._told(estimate, variance, n, clusters))
        return {name: torch.cat([part[name] for part in parts]).numpy() for name in parts[0]}

    def _clusters(self, kept: Float[Tensor, "n k"]) -> Float[Tensor, " k"]:
        """How many clusters have rows left."""
        if self.codes is None:
            return kept.new_zeros(kept.shape[1])
        sizes = kept.new_zeros(int(self.codes.max()) + 1, kept.shape[1]).index_add(0, self.codes, kept)
        return (sizes > 0).double().sum(0)

    def _variance(
        self,
        of_rows: tuple[Float[Tensor, "n k"], Float[Tensor, "n k"], Float[Tensor, "n k"]],
        own: Tensor,
        n: Tensor,
        clusters: Tensor,
        weight: Tensor | None = None,
    ) -> Float[Tensor, " k"]:
        """The squared standard error of k fits.

        Args:
            of_rows: z, residuals and leverages; 0 for rows that are not in the fit.
            own: the squared length of the direction, a^T A^-1 a.
            n: the number of rows.
            clusters: the number of clusters.
            weight: the weights of the rows (n, 1), for derivatives; None: 1.
        """
        (z, e, h), p, kind = of_rows, len(self.v), self.errors.kind
        weight = torch.ones_like(z[:, :1]) if weight is None else weight
        if kind == "nonrobust":
            return own * (weight * e.square()).sum(0) / (n - p)
        scores = z * e
        if self.codes is not None:
            sums = torch.zeros(int(self.codes.max()) + 1, z.shape[1], dtype=torch.float64)
            sums = sums.index_add(0, self.codes, weight * scores)
            return sums.square().sum(0) * clusters / (clusters - 1) * (n - 1) / (n - p)
        power = {"HC2": 1, "HC3": 2}.get(kind, 0)
        factor = n / (n - p) if kind == "HC1" else 1.0
        return (weight * scores.square() / (1 - h) ** power).sum(0) * factor

    def _told(self, estimate: Tensor, variance: Tensor, n: Tensor, clusters: Tensor) -> dict[str, Tensor]:
        """The numbers of k fits."""
        error = variance.sqrt()
        t = estimate / error
        use_t = self.errors.kind == "nonrobust" if self.errors.use_t is None else self.errors.use_t
        freedom = (clusters - 1 if self.codes is not None else n - len(self.v)).expand(len(t)).numpy()
        law = stats.t(freedom) if use_t else stats.norm()
        p = torch.as_tensor(2 * law.sf(t.abs().numpy()))
        half = torch.as_tensor(law.isf(0.025) * np.ones(len(t))) * error
        return {
            "estimate": estimate, "standard error": error, "t": t, "p": p,
            "low": estimate - half, "high": estimate + half,
        }  # fmt: skip

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
            n = (omega * self.whole.counted).sum()
            clusters = self._clusters(torch.ones(len(X), 1).double())
            variance = self._variance(
                (z[:, None], e[:, None], h[:, None]), self.v @ q, n, clusters, omega[:, None]
            )
            variance.sqrt().sum().backward()
        assert omega.grad is not None
        return omega.grad

"""Every set of so many units, and what least squares without it says: the judge of certificates."""

from collections.abc import Callable, Iterator, Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np


class Case(NamedTuple):
    """A least squares problem: rows, targets, weights, the ridge penalty on the total, and groups of rows."""

    X: np.ndarray
    y: np.ndarray
    w: np.ndarray
    penalty: float
    groups: np.ndarray | None

    @property
    def members(self) -> list[np.ndarray]:
        """The rows of each unit."""
        if self.groups is None:
            return [np.array([i]) for i in range(len(self.X))]
        return [np.flatnonzero(self.groups == g) for g in np.unique(self.groups)]


KINDS = ("plain", "near-collinear", "weighted", "ridge", "rare", "groups", "weighted groups", "heavy tails")


def case_of(kind: str, seed: int) -> Case:
    """A random problem of 9 to 15 rows and 2 to 4 columns, whose first coefficient is easily lost."""
    rng = np.random.default_rng(seed)
    n, p = int(rng.integers(9, 16)), int(rng.integers(2, 5))
    X = rng.normal(size=(n, p))
    X[:, -1] = 1
    own = X[:, 0].copy()
    if kind == "near-collinear":
        X[:, 0] = X[:, 1] + 10.0 ** -rng.uniform(0, 5) * X[:, 0]
    if kind == "rare":
        X[:, 1] = rng.permutation(np.arange(n) < 2)
    if kind == "heavy tails":
        X[:, :-1] = rng.standard_t(1.5, size=(n, p - 1))
    y = (X[:, 0] if kind != "near-collinear" else own) * rng.uniform(0, 3) + rng.normal(size=n)
    w = rng.uniform(0.1, 3, n) * (rng.random(n) > 0.1) if "weighted" in kind else np.ones(n)
    groups = np.sort(rng.integers(0, 6, n)) if "groups" in kind else None
    return Case(X, y, w, 0.5 * (kind == "ridge"), groups)


class Fit(NamedTuple):
    """A coefficient, its classical standard error and degrees of freedom; NaN where the data do not determine it."""

    estimate: float
    error: float
    freedom: float


def fit(case: Case, rows: np.ndarray, column: int = 0) -> Fit:
    """The coefficient of a column by the textbook's formulas, on those rows alone."""
    kept = rows[case.w[rows] > 0]
    S = np.sqrt(case.w[kept])[:, None] * case.X[kept]
    t = np.sqrt(case.w[kept]) * case.y[kept]
    A = np.concatenate([S, np.sqrt(case.penalty) * np.eye(S.shape[1])])
    sizes = np.linalg.norm(A, axis=0)
    scale = np.where(sizes > 0, sizes, 1)
    U, s, V = np.linalg.svd(A / scale, full_matrices=False)
    keep = s > 1e-9 * s.max()
    e = np.eye(A.shape[1])[column]
    if np.linalg.norm(e - V[keep].T @ (V[keep] @ e)) > 1e-6:
        return Fit(np.nan, np.nan, np.nan)
    beta = (V[keep].T @ ((U[:, keep].T @ np.concatenate([t, np.zeros(len(A) - len(t))])) / s[keep])) / scale
    freedom = len(kept) - int(keep.sum())
    variance = (V[keep] @ (e / scale) / s[keep]) @ (V[keep] @ (e / scale) / s[keep])
    squares = float(((t - S @ beta) ** 2).sum())
    return Fit(
        float(beta[column]), float(np.sqrt(variance * squares / freedom)) if freedom > 0 else np.nan, freedom
    )


def sets(members: Sequence[np.ndarray], k: int) -> Iterator[np.ndarray]:
    """The rows of every set of k units."""
    for chosen in combinations(range(len(members)), k):
        yield np.concatenate([members[g] for g in chosen])


LOGISTIC = ("plain", "near-separable", "weighted", "ridge", "rare", "weak")


def logistic_case(kind: str, seed: int, n: int = 0) -> Case:
    """A random logistic regression, y 0 or 1; `n` rows, or 12 to 30 of them."""
    rng = np.random.default_rng(seed)
    n, p = n or int(rng.integers(12, 31)), int(rng.integers(1, 4))
    X = rng.normal(size=(n, p)) * 10.0 ** rng.uniform(-0.5, 0.3)
    if kind == "rare":
        X[:, -1] = rng.permutation(np.arange(n) < 2)
    slope = {"near-separable": 5.0, "weak": 0.3}.get(kind, 1.0)
    y = (slope * X[:, 0] + rng.logistic(size=n) * (0.3 if kind == "near-separable" else 1) > 0).astype(float)
    w = rng.uniform(0.2, 3, n) if kind == "weighted" else np.ones(n)
    penalty = {"plain": 0.0, "ridge": 3.0, "rare": 0.5}.get(kind, 10.0 ** rng.uniform(-3, 0))
    return Case(X, y, w, penalty, None)


def logistic_fits(case: Case, kept: np.ndarray) -> np.ndarray:
    """The parameters (s, p) of logistic regressions on s sets of rows (s, n) of booleans; NaN where there are none.

    Damped Newton steps, all sets at once; classes that are separated without a penalty have no optimum.
    """
    X, sign = case.X, 2 * case.y - 1
    w, p = case.w * kept, case.X.shape[1]

    def value(theta: np.ndarray) -> np.ndarray:
        losses = np.logaddexp(0, -sign * (theta @ X.T))
        return (w * losses).sum(1) + case.penalty / 2 * (theta**2).sum(1)

    theta = np.zeros((len(kept), p))
    for _ in range(60):
        said = 1 / (1 + np.exp(sign * (theta @ X.T)))
        gradient = -(w * sign * said) @ X + case.penalty * theta
        hessian = np.einsum("sn,ni,nj->sij", w * said * (1 - said), X, X)
        hessian += (case.penalty + 1e-14) * np.eye(p)
        step = np.linalg.solve(hessian, gradient[:, :, None])[:, :, 0]
        size, now = np.ones(len(kept)), value(theta)
        for _ in range(20):
            worse = value(theta - size[:, None] * step) > now + 1e-12 * (1 + abs(now))
            size = np.where(worse, size / 2, size)
        theta = theta - size[:, None] * step
    lost = (np.abs(gradient).max(1) > 1e-7) | (np.abs(theta @ X.T).max(1) > 50)
    return np.where(lost[:, None], np.nan, theta)


def kept_rows(n: int, k: int) -> np.ndarray:
    """The rows that are left without every set of k rows, (s, n) of booleans."""
    gone = np.array(list(combinations(range(n), k)))
    kept = np.ones((len(gone), n), dtype=bool)
    np.put_along_axis(kept, gone, False, axis=1)
    return kept


class Rates(NamedTuple):
    """A loss of outputs eta with log link and its first two derivatives, elementwise, of targets y."""

    value: Callable[[np.ndarray, np.ndarray], np.ndarray]
    first: Callable[[np.ndarray, np.ndarray], np.ndarray]
    second: Callable[[np.ndarray, np.ndarray], np.ndarray]


def _share(eta: np.ndarray) -> np.ndarray:
    """Half of eta mu / (1 + mu alpha) with alpha = 1/2."""
    return 1 / (1 + np.exp(-eta - np.log(0.5)))


RATES = {
    "poisson": Rates(lambda e, y: np.exp(e) - y * e, lambda e, y: np.exp(e) - y, lambda e, y: np.exp(e)),
    "gamma": Rates(lambda e, y: y * np.exp(-e) + e, lambda e, y: 1 - y * np.exp(-e), lambda e, y: y * np.exp(-e)),
    "tweedie": Rates(
        lambda e, y: 2 * y * np.exp(-e / 2) + 2 * np.exp(e / 2),
        lambda e, y: np.exp(e / 2) - y * np.exp(-e / 2),
        lambda e, y: (y * np.exp(-e / 2) + np.exp(e / 2)) / 2,
    ),
    "negative binomial": Rates(
        lambda e, y: (y + 2) * np.logaddexp(0, e + np.log(0.5)) - y * e,
        lambda e, y: (y + 2) * _share(e) - y,
        lambda e, y: (y + 2) * _share(e) * (1 - _share(e)),
    ),
}  # fmt: skip
"""Poisson, Gamma, Tweedie of power 3/2, and negative binomial of alpha 1/2, each with log link."""
RATE_KINDS = ("plain", "weighted", "ridge", "rare", "weak", "heavy tails")


def rate_case(model: str, kind: str, seed: int, n: int = 0) -> Case:
    """A random regression with log link; `n` rows, or 12 to 30 of them."""
    rng = np.random.default_rng(seed)
    n, p = n or int(rng.integers(12, 31)), int(rng.integers(1, 4))
    X = rng.normal(size=(n, p)) * 10.0 ** rng.uniform(-1, 0)
    X[:, -1] = rng.permutation(np.arange(n) < 2) if kind == "rare" else 1
    if kind == "heavy tails":
        X[:, :-1] = 0.2 * rng.standard_t(2, size=(n, p - 1))
    mean = np.exp(np.clip((0.2 if kind == "weak" else 1.0) * X[:, 0] + rng.uniform(-0.5, 2), -3, 5))
    noise = rng.gamma(2.0, 0.5, n)
    y = mean * noise if model == "gamma" else rng.poisson(mean * noise).astype(float)
    w = rng.uniform(0.2, 3, n) if kind == "weighted" else np.ones(n)
    return Case(X, y, w, 1.0 if kind == "ridge" else 10.0 ** rng.uniform(-6, -1), None)


def rate_fits(model: str, case: Case, kept: np.ndarray) -> np.ndarray:
    """The parameters (s, p) of such regressions on s sets of rows (s, n) of booleans; NaN where there are none.

    Newton steps, all sets at once, each halved while the objective rises.
    """
    rates, X, p = RATES[model], case.X, case.X.shape[1]
    w, theta = case.w * kept, np.zeros((len(kept), case.X.shape[1]))

    def value(theta: np.ndarray) -> np.ndarray:
        losses = rates.value(np.clip(theta @ X.T, -60, 60), case.y)
        return (w * losses).sum(1) + case.penalty / 2 * (theta**2).sum(1)

    for _ in range(80):
        eta = np.clip(theta @ X.T, -60, 60)
        gradient = (w * rates.first(eta, case.y)) @ X + case.penalty * theta
        hessian = np.einsum("sn,ni,nj->sij", w * rates.second(eta, case.y), X, X)
        hessian += (case.penalty + 1e-14) * np.eye(p)
        step = np.linalg.solve(hessian, gradient[:, :, None])[:, :, 0]
        size, now = np.ones(len(kept)), value(theta)
        for _ in range(30):
            worse = value(theta - size[:, None] * step) > now + 1e-12 * (1 + abs(now))
            size = np.where(worse, size / 2, size)
        theta = theta - size[:, None] * step
    lost = (np.abs(gradient).max(1) > 1e-6 * (1 + np.abs(case.y).sum())) | (np.abs(theta @ X.T).max(1) > 50)
    return np.where(lost[:, None], np.nan, theta)

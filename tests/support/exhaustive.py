"""Every set of so many units, and what least squares without it says: the judge of certificates."""

from collections.abc import Iterator, Sequence
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

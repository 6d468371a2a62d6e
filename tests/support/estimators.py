"""Small training data for estimators of scikit-learn, estimators of every family, and the problem of a fitted one."""

from typing import Any

import numpy as np
from sklearn.base import clone
from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge, SGDClassifier
from sklearn.svm import LinearSVC

from upweight import LinearProblem, from_estimator

RNG = np.random.default_rng(0)
N = 60
"""The first N rows are for training, the others for tests."""
X = RNG.normal(size=(N + 8, 3)) + np.array([0.5, -0.2, 0.0])
ETA = X @ np.array([1.0, -1.0, 0.5]) + RNG.normal(size=N + 8)
TARGETS = {
    "two": np.where(ETA > 0, "yes", "no"),
    "three": np.array(["low", "mid", "top"])[np.digitize(ETA, [-0.7, 0.7])],
    "number": 3 * ETA,
    "numbers": np.stack([3 * ETA, ETA**2], axis=1),
}
WEIGHTS = RNG.uniform(0.2, 2.0, N)
SGD: dict[str, Any] = {"alpha": 0.3, "max_iter": 4000, "tol": None, "random_state": 0, "average": 10_000}
TIGHT: dict[str, Any] = {"tol": 1e-12, "max_iter": 100_000}

# (estimator, task, whether weighted, relative accuracy of the estimator's own refits)
SMOOTH = [
    (LogisticRegression(C=0.3, **TIGHT), "two", False, 1e-3),
    (LogisticRegression(C=0.3, **TIGHT, class_weight={"no": 3.0, "yes": 0.7}), "two", True, 1e-3),
    (LogisticRegression(C=0.3, solver="newton-cholesky", **TIGHT, fit_intercept=False), "three", False, 1e-3),
    (LogisticRegression(C=0.3, solver="newton-cg", **TIGHT, class_weight={"mid": 2.0}), "three", True, 1e-3),
    (LogisticRegression(C=np.inf, **TIGHT), "two", True, 1e-3),
    (LogisticRegression(C=0.3, solver="liblinear", **TIGHT), "two", True, 1e-3),
    (LogisticRegression(C=0.3, solver="liblinear", intercept_scaling=3.0, **TIGHT), "two", False, 1e-3),
    (LinearSVC(C=0.1, **TIGHT), "two", True, 1e-3),
    (LinearSVC(C=0.1, **TIGHT, intercept_scaling=2.0), "three", True, 1e-3),
    (LinearSVC(C=0.1, dual=False, **TIGHT, class_weight={"no": 2.0}), "two", False, 1e-3),
    (SGDClassifier("log_loss", **SGD), "two", False, 0.1),
    (SGDClassifier("log_loss", **SGD), "three", True, 0.1),
    (SGDClassifier("squared_hinge", **SGD, class_weight={"no": 0.5}), "two", False, 0.1),
    (LinearRegression(), "number", True, 1e-6),
    (LinearRegression(fit_intercept=False), "numbers", False, 1e-6),
    (Ridge(alpha=20.0), "number", True, 1e-6),
    (Ridge(alpha=[5.0, 20.0]), "numbers", False, 1e-6),
    (Ridge(alpha=20.0, fit_intercept=False), "numbers", True, 1e-6),
]


def name(value: Any) -> str:
    """For pytest.mark.parametrize."""
    return "".join(str(value).split()) if not isinstance(value, (bool, float)) else str(value)


def fitted(
    estimator: Any, task: str, kept: Any = slice(N), weighted: bool = False, **options: Any
) -> LinearProblem:
    """The problem of a clone fitted on those rows."""
    X_, y_ = X[:N][kept], TARGETS[task][:N][kept]
    weights = WEIGHTS[kept] if weighted else None
    model = clone(estimator).fit(X_, y_, **({"sample_weight": weights} if weighted else {}))
    return from_estimator(model, X_, y_, sample_weight=weights, **options)

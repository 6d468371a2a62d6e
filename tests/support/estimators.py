"""Small training data for estimators of scikit-learn, estimators of every family, and the problem of a fitted one."""

from typing import Any

import numpy as np
from sklearn.base import clone
from sklearn.kernel_ridge import KernelRidge
from sklearn.linear_model import (
    ElasticNet,
    GammaRegressor,
    Lasso,
    LinearRegression,
    LogisticRegression,
    PoissonRegressor,
    Ridge,
    RidgeClassifier,
    SGDClassifier,
    SGDRegressor,
    TweedieRegressor,
)
from sklearn.multiclass import OneVsRestClassifier
from sklearn.multioutput import MultiOutputRegressor
from sklearn.svm import LinearSVC, LinearSVR

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
    "counts": np.floor(np.exp(0.5 * ETA) + 0.3),
    "amounts": np.exp(0.5 * ETA) + 0.1,
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
    (RidgeClassifier(alpha=3.0, class_weight={"no": 2.0, "yes": 0.5}), "two", True, 1e-6),
    (RidgeClassifier(alpha=3.0, class_weight={"mid": 2.0}), "three", False, 1e-6),
    (OneVsRestClassifier(LogisticRegression(C=0.3, **TIGHT)), "three", False, 1e-3),
    (MultiOutputRegressor(Ridge(alpha=20.0)), "numbers", True, 1e-6),
    (KernelRidge(alpha=2.0, kernel="rbf", gamma=0.2), "number", True, 1e-5),
    (KernelRidge(alpha=[2.0, 5.0], kernel="poly", degree=2), "numbers", False, 1e-5),
    (ElasticNet(alpha=0.5, l1_ratio=0, tol=1e-14, max_iter=10**6), "number", False, 1e-4),
    (ElasticNet(alpha=0.5, tol=1e-14, max_iter=10**6), "number", False, 1e-4),
    (Lasso(alpha=0.3, tol=1e-14, max_iter=10**6, fit_intercept=False), "number", False, 1e-4),
    (LogisticRegression(C=0.3, solver="saga", l1_ratio=1, **TIGHT), "two", True, 1e-3),
    (LogisticRegression(C=0.3, solver="saga", l1_ratio=0.5, **TIGHT), "two", False, 1e-3),
    (LogisticRegression(C=0.3, solver="liblinear", l1_ratio=1, **TIGHT), "two", False, 1e-3),
    (
        LinearSVC(C=0.1, penalty="l1", dual=False, random_state=0, tol=1e-7, max_iter=10**5),
        "two",
        False,
        1e-3,
    ),
    (PoissonRegressor(alpha=0.2, solver="newton-cholesky", **TIGHT), "counts", False, 1e-3),
    (PoissonRegressor(alpha=0.0, solver="newton-cholesky", **TIGHT), "counts", True, 1e-3),
    (GammaRegressor(alpha=0.2, solver="newton-cholesky", **TIGHT), "amounts", False, 1e-3),
    (TweedieRegressor(power=1.5, alpha=0.2, solver="newton-cholesky", **TIGHT), "counts", False, 1e-3),
    (TweedieRegressor(power=0, alpha=0.2, solver="newton-cholesky", **TIGHT), "number", False, 1e-3),
    (SGDRegressor(**{**SGD, "average": 100_000}, learning_rate="constant", eta0=2e-4), "amounts", True, 0.1),
    (
        LinearSVR(C=0.1, loss="squared_epsilon_insensitive", epsilon=0.2, dual=False, **TIGHT),
        "number",
        True,
        1e-3,
    ),
]
ON_THE_MEAN = (SGDClassifier, SGDRegressor, ElasticNet, PoissonRegressor, GammaRegressor, TweedieRegressor)
"""Those whose refits keep the penalty on the mean loss."""


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

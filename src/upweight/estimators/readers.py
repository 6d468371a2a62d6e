"""Which estimators are read, by whom, and what to use in place of those that are not."""

from __future__ import annotations

from typing import Any

from .least_squares import least_squares
from .logistic import logistic_regression, sgd
from .reading import Reader
from .support_vectors import linear_svc, svc

READERS: dict[str, Reader] = {
    "LogisticRegression": logistic_regression,
    "LinearSVC": linear_svc,
    "SGDClassifier": sgd,
    "LinearRegression": least_squares,
    "Ridge": least_squares,
    "SVC": svc,
}
"""Readers by the name of scikit-learn's class, so that none of these classes need be imported."""

_REGRESSION = "its loss has kinks or is not a likelihood's; use Ridge or LinearRegression"
_SEARCH = (
    "its settings were chosen on the same data; pass the fitted model of those settings (best_estimator_)"
)
_REFIT = "its penalty was chosen by cross-validation on the same data; pass a {} fitted with the chosen one"
_KINK = "an l1 penalty has a kink at zero, where the optimum sits; use Ridge"
REFUSED = {
    "SVR": _REGRESSION,
    "NuSVR": _REGRESSION,
    "LinearSVR": _REGRESSION,
    "SGDRegressor": "use Ridge, which minimises the same squared loss",
    "NuSVC": "its penalty is set by the data through nu; use SVC",
    "Lasso": _KINK,
    "ElasticNet": _KINK,
    "LogisticRegressionCV": _REFIT.format("LogisticRegression"),
    "RidgeCV": _REFIT.format("Ridge"),
    "RidgeClassifier": "use Ridge on targets -1 and +1, which is what it fits",
    "GridSearchCV": _SEARCH,
    "RandomizedSearchCV": _SEARCH,
    "OneVsRestClassifier": "pass each of its estimators_ with the labels of that class against the rest",
    "OneVsOneClassifier": "it trains a model for every pair of classes; pass one of its estimators_ with those two",
}
"""Estimators that are not supported by the name of their class, and what to use in their place."""


def reader_of(model: Any) -> Reader:
    """The reader of an estimator's family, by the names of its scikit-learn class and of the bases of that.

    Raises:
        TypeError: for an estimator that is not supported, with what to use in its place.

    >>> from sklearn.linear_model import Ridge
    >>> reader_of(Ridge()).__name__
    'least_squares'
    """
    for kind in type(model).__mro__:
        if kind.__module__.partition(".")[0] == "sklearn" and kind.__name__ in REFUSED:
            raise TypeError(f"{type(model).__name__} is not supported: {REFUSED[kind.__name__]}")
        if kind.__module__.partition(".")[0] == "sklearn" and kind.__name__ in READERS:
            return READERS[kind.__name__]
    raise TypeError(
        f"{type(model).__name__} is not supported: influence needs a smooth objective in a vector of parameters, and "
        f"from_estimator knows those of {', '.join(READERS)} and of a Pipeline ending in one of them; describe other "
        "linear models with LinearProblem and other differentiable ones with Problem"
    )

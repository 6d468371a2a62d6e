"""What each scikit-learn estimator minimised: its loss, penalty and parameters in the words of `LinearProblem`."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import sparse

from ..errors import ApproximationWarning
from ..linear.kernel_features import LARGE, FeatureMap, Kernel
from ..losses import LinearLoss, Logistic, SmoothHinge, Softmax, Squared, SquaredHinge
from ..types import Keep

VISIBLE, HOPELESS = 0.01, 0.5
"""Changes of an SVC's decision function (its margin is 1) that are warned of, and refused."""


@dataclass(frozen=True, eq=False)
class Reading:
    """What an estimator minimised, in the words of `LinearProblem`."""

    coef: np.ndarray
    intercept: np.ndarray | None
    loss: LinearLoss
    l2: Any
    keep: Keep
    l2_intercept: float = 0.0
    counts_weights: bool = False
    """Whether "balanced" counts examples by their sample weights."""
    phi: FeatureMap | None = None
    """The features that the model is linear in, where they are not its inputs."""
    notes: tuple[str, ...] = ()


def _coef(model: Any) -> np.ndarray:
    coef = model.coef_.toarray() if sparse.issparse(model.coef_) else np.asarray(model.coef_)
    return coef.reshape(1, -1) if coef.ndim == 1 else coef


def _intercept(model: Any, outputs: int) -> np.ndarray | None:
    if not model.fit_intercept:
        return None
    return np.broadcast_to(np.asarray(model.intercept_, dtype=np.float64).ravel(), (outputs,)).copy()


def _refuse_penalty(model: Any, name: str, instead: str) -> None:
    raise ValueError(
        f"{type(model).__name__} with an {name} penalty is not supported: it has a kink at zero, where the optimum "
        f"sits, so that no Hessian describes a refit; use {instead}"
    )


def _logistic(model: Any, X: Any, smoothing: float, rank: int | None) -> Reading:
    penalty = getattr(model, "penalty", "deprecated")
    share = {"l1": 1.0, "elasticnet": model.l1_ratio, "deprecated": model.l1_ratio}.get(penalty)
    if share:
        _refuse_penalty(model, "l1" if share == 1 else "elasticnet", "the l2 penalty")
    coef, liblinear = _coef(model), model.solver == "liblinear"
    scheme = getattr(model, "multi_class", "auto")  # gone since scikit-learn 1.8
    if scheme == "multinomial" and len(coef) == 1 and not liblinear:
        raise ValueError(
            'multi_class="multinomial" with two classes penalises its coefficients twice; leave multi_class out'
        )
    l2 = 0.0 if penalty in (None, "none") or math.isinf(model.C) else 1 / (model.C * X.shape[0])
    separate = len(coef) == 1 or liblinear or scheme == "ovr"
    return Reading(
        coef,
        _intercept(model, len(coef)),
        Logistic() if separate else Softmax(),
        l2,
        "total",
        l2_intercept=_liblinear_intercept(model, l2) if liblinear else 0.0,
        counts_weights=True,
    )


def _linear_svc(model: Any, X: Any, smoothing: float, rank: int | None) -> Reading:
    if model.penalty != "l2":
        _refuse_penalty(model, model.penalty, 'penalty="l2"')
    if model.multi_class != "ovr":
        raise ValueError(
            f'multi_class={model.multi_class!r} trains all classes with one loss of another kind; use "ovr"'
        )
    coef, l2 = _coef(model), 1 / (model.C * X.shape[0])
    return Reading(
        coef,
        _intercept(model, len(coef)),
        SmoothHinge(smoothing) if model.loss == "hinge" else SquaredHinge(),
        l2,
        "total",
        l2_intercept=_liblinear_intercept(model, l2),
        counts_weights=True,
    )


def _liblinear_intercept(model: Any, l2: float) -> float:
    # liblinear appends a column of `intercept_scaling` and penalises its weight, b / intercept_scaling, like any other.
    return l2 / model.intercept_scaling**2 if model.fit_intercept else 0.0


def _sgd(model: Any, X: Any, smoothing: float, rank: int | None) -> Reading:
    losses = {"hinge": SmoothHinge(smoothing), "squared_hinge": SquaredHinge(), "log_loss": Logistic()}
    if model.loss not in losses:
        raise ValueError(f"loss={model.loss!r} is not supported; use one of {', '.join(losses)}")
    if model.penalty not in ("l2", None):
        _refuse_penalty(model, model.penalty, 'penalty="l2"')
    if model.early_stopping:
        raise ValueError(
            "early_stopping=True trains on a part of the data that is not recorded; use early_stopping=False"
        )
    coef = _coef(model)
    l2 = 0.0 if model.penalty is None else model.alpha
    return Reading(coef, _intercept(model, len(coef)), losses[model.loss], l2, "mean")


def _least_squares(model: Any, X: Any, smoothing: float, rank: int | None) -> Reading:
    if model.positive:
        raise ValueError("positive=True is not supported: coefficients at the bound do not follow a Hessian")
    coef = _coef(model)
    intercept = _intercept(model, len(coef))
    alpha = np.asarray(getattr(model, "alpha", 0.0), dtype=np.float64).ravel()  # LinearRegression has none
    l2 = np.broadcast_to(alpha / X.shape[0], (len(coef),)).repeat(coef.shape[1])
    if intercept is not None:
        l2 = np.concatenate([l2, np.zeros(len(coef))])
    return Reading(coef, intercept, Squared(), l2, "total")


def _svc(model: Any, X: Any, smoothing: float, rank: int | None) -> Reading:
    if len(model.classes_) != 2:
        raise ValueError(
            f"SVC with {len(model.classes_)} classes trains a model for every pair of them (one against one), with no "
            "objective in common; use LinearSVC (one against the rest), or an SVC on two of the classes"
        )
    n = X.shape[0]
    if model.shape_fit_[0] != n:
        raise ValueError(f"X has {n} examples, the SVC was fitted on {model.shape_fit_[0]}")
    loss, l2 = SmoothHinge(smoothing), 1 / (model.C * n)
    if model.kernel == "linear":
        return Reading(_coef(model), model.intercept_, loss, l2, "total")
    phi = FeatureMap.of(_kernel(model), X, rank=rank, large=n if model.kernel == "precomputed" else LARGE)
    features = phi(X)
    dual = model.dual_coef_.toarray() if sparse.issparse(model.dual_coef_) else model.dual_coef_
    coef = dual @ features[model.support_]
    change = np.abs(features @ coef[0] + model.intercept_[0] - model.decision_function(X)).max()
    notes = ("the kernel and its gamma are held fixed", *_approximated(float(change), rank))
    return Reading(coef, model.intercept_, loss, l2, "total", phi=phi, notes=notes)


def _kernel(model: Any) -> Kernel:
    if callable(model.kernel):
        return lambda A, B: np.asarray(model.kernel(A, B))
    if model.kernel == "precomputed":  # a point is its row of kernel values with the training points
        return lambda A, B: A
    from sklearn.metrics.pairwise import pairwise_kernels

    # What fit made of gamma="scale" or "auto" is kept in `_gamma` alone.
    settings = {"gamma": model._gamma, "degree": model.degree, "coef0": model.coef0}
    return lambda A, B: pairwise_kernels(A, B, metric=model.kernel, filter_params=True, **settings)


def _approximated(change: float, rank: int | None) -> tuple[str, ...]:
    """How far the decision function in features is from the estimator's, in words; refused or warned of where far."""
    if rank is None:
        if change > 1e-5:
            raise ValueError(
                f"X is not what the SVC was fitted on: its decision function there is off by {change:.1e}"
            )
        return ()
    note = f"rank={rank} changes the decision function at training points by up to {change:.1e} (the margin is 1)"
    if change > HOPELESS:
        raise ValueError(f"{note}: that is another model; raise rank or leave it out")
    if change > VISIBLE:
        warnings.warn(f"{note}; raise rank for closer answers", ApproximationWarning, stacklevel=4)
    return (note,)


Reader = Callable[[Any, Any, float, int | None], Reading]

READERS: dict[str, Reader] = {
    "LogisticRegression": _logistic,
    "LinearSVC": _linear_svc,
    "SGDClassifier": _sgd,
    "LinearRegression": _least_squares,
    "Ridge": _least_squares,
    "SVC": _svc,
}
"""By the name of scikit-learn's class, so that none of them need be imported."""

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


def reader_of(model: Any) -> Reader:
    """How to read that model. Raises TypeError where it is not supported, with what to use instead."""
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

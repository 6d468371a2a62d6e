"""Estimators that choose or wrap another: the plain one that they settled on, and what is then held fixed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True, eq=False)
class Chosen:
    """What a fitted estimator comes down to, for questions about it and for refits of it.

    Args:
        estimator: the fitted estimator that predicts, a Pipeline or a model.
        notes: what was chosen and is held fixed, one sentence each.
        target: the fitted transformer of the targets, or None where they are as the user has them.
    """

    estimator: Any
    notes: tuple[str, ...] = ()
    target: Any = None

    def targets(self, y: Any) -> Any:
        """Targets as the model was trained on them, from those that the user has."""
        if self.target is None or y is None:
            return y
        found = np.asarray(self.target.transform(np.asarray(y, dtype=np.float64).reshape(len(y), -1)))
        return found[:, 0] if found.ndim == 2 and found.shape[1] == 1 else found


def chosen(estimator: Any) -> Chosen:
    """Take wrappers off a fitted estimator until a Pipeline of transformers and a plain model, or that alone, is left.

    Raises:
        TypeError: for a wrapper whose model was not trained on X and y alone, with what to pass in its place.
        ValueError: likewise for a wrapper's settings.
    """
    found = Chosen(estimator)
    while True:
        inner = _one_layer(_last(found.estimator))
        if inner is None:
            return found
        found = Chosen(
            _with_last(found.estimator, inner.estimator),
            (*found.notes, *inner.notes),
            inner.target or found.target,
        )


def _last(estimator: Any) -> Any:
    return estimator.steps[-1][1] if hasattr(estimator, "steps") else estimator


def _with_last(estimator: Any, model: Any) -> Any:
    """The fitted estimator with another last step: a new Pipeline of the same fitted transformers."""
    if not hasattr(estimator, "steps"):
        return model
    from sklearn.pipeline import Pipeline

    before = estimator.steps[:-1]
    last = model.steps if isinstance(model, Pipeline) else [(estimator.steps[-1][0], model)]
    taken = {name for name, _ in last}
    return Pipeline([(f"outer {name}" if name in taken else name, step) for name, step in before] + last)


def _one_layer(model: Any) -> Chosen | None:
    """What is inside a wrapper, or None for a model that is none."""
    for kind in type(model).__mro__:
        if kind.__module__.partition(".")[0] == "sklearn" and kind.__name__ in WRAPPERS:
            from sklearn.utils.validation import check_is_fitted

            check_is_fitted(model)
            return WRAPPERS[kind.__name__](model)
    return None


# -- searches and their kind -------------------------------------------------------------------------------------------


def _search(model: Any) -> Chosen:
    if not hasattr(model, "best_estimator_"):
        raise ValueError(
            f"{type(model).__name__} with refit=False keeps no fitted estimator; fit one with best_params_ and pass it"
        )
    settings = ", ".join(f"{name}={value!r}" for name, value in model.best_params_.items())
    return Chosen(model.best_estimator_, (f"the settings that the search chose are held fixed: {settings}",))


def _frozen(model: Any) -> Chosen:
    return Chosen(model.estimator, ("the frozen estimator is asked about as if it were fitted on X and y",))


def _threshold(model: Any) -> Chosen:
    if not getattr(model, "refit", True):
        raise ValueError(
            "TunedThresholdClassifierCV with refit=False trains on a part of the data that is not recorded; use "
            "refit=True"
        )
    note = f"the threshold {getattr(model, 'best_threshold_', 0.5):.4g} that was tuned is held fixed: no loss sees it"
    return Chosen(model.estimator_, (note,))


def _calibrated(model: Any) -> Chosen:
    inner = [part.estimator for part in model.calibrated_classifiers_]
    if model.ensemble is True or len(inner) > 1 or not hasattr(model.estimator, "fit"):
        raise ValueError(
            "CalibratedClassifierCV with an ensemble averages models of several folds: fit it with ensemble=False, or "
            "pass the estimator of one of calibrated_classifiers_ with the rows that it was trained on"
        )
    if type(inner[0]).__name__ == "FrozenEstimator":
        raise ValueError(
            "CalibratedClassifierCV of a FrozenEstimator was fitted on rows for calibration alone: pass the frozen "
            "estimator with its own training rows"
        )
    note = (
        "the calibration is held fixed: losses and probabilities are those of the classifier before it, which was "
        "trained on all rows"
    )
    return Chosen(inner[0], (note,))


def _target(model: Any) -> Chosen:
    note = (
        "the transformer of the targets is held fixed: losses and predictions are in the units that the model was "
        "trained in"
    )
    return Chosen(model.regressor_, (note,), target=model.transformer_)


# -- penalties chosen by cross-validation, or by the data ------------------------------------------------------------


def _plain(model: Any, kind: type, note: str, **settings: Any) -> Chosen:
    """An estimator of a plain class with the settings that were chosen and everything that the fit found.

    Args:
        model: the fitted estimator that chose.
        kind: the plain class.
        note: what is held fixed.
        settings: the settings that were chosen.
    """
    known = kind().get_params()
    own = {name: value for name, value in model.get_params(deep=False).items() if name in known}
    plain = kind(**{**own, **settings})
    fitted = {
        name: value
        for name, value in vars(model).items()
        if name.endswith("_")
        and not name.startswith("_")
        and not isinstance(getattr(kind, name, None), property)
    }
    vars(plain).update(fitted)
    return Chosen(plain, (note,))


def _same(model: Any, name: str) -> float:
    """A number that was chosen for every class, where it is the same for all."""
    values = np.unique(np.ravel(np.asarray(getattr(model, name), dtype=np.float64)))
    if len(values) > 1:
        raise ValueError(
            f"{type(model).__name__} chose another {name.rstrip('_')} for every class; pass a plain model with one "
            "for all"
        )
    return float(values[0])


def _logistic_cv(model: Any) -> Chosen:
    from sklearn.linear_model import LogisticRegression

    if not model.refit:
        raise ValueError(
            "LogisticRegressionCV with refit=False averages the weights of its folds; use refit=True"
        )
    settings = {"C": _same(model, "C_")}
    shares = getattr(model, "l1_ratio_", None)
    if shares is not None and np.ravel(shares)[0] is not None:
        settings["l1_ratio"] = _same(model, "l1_ratio_")
    return _plain(
        model,
        LogisticRegression,
        f"C={settings['C']:.4g}, chosen by cross-validation, is held fixed",
        **settings,
    )


def _ridge_cv(name: str) -> Callable[[Any], Chosen]:
    def of(model: Any) -> Chosen:
        from sklearn import linear_model

        found = np.array2string(np.asarray(model.alpha_), precision=4)
        note = f"alpha={found}, chosen by cross-validation, is held fixed"
        return _plain(model, getattr(linear_model, name), note, alpha=model.alpha_)

    return of


def _net_cv(name: str) -> Callable[[Any], Chosen]:
    def of(model: Any) -> Chosen:
        from sklearn import linear_model

        settings: dict[str, Any] = {"alpha": float(model.alpha_)}
        if name == "ElasticNet":
            settings["l1_ratio"] = float(model.l1_ratio_)
        verb = "are" if len(settings) > 1 else "is"
        said = " and ".join(f"{key}={value:.4g}" for key, value in settings.items())
        return _plain(
            model,
            getattr(linear_model, name),
            f"{said}, chosen by cross-validation, {verb} held fixed",
            **settings,
            precompute=False,  # "auto" is the choosing class's alone
        )

    return of


def _bayesian_ridge(model: Any) -> Chosen:
    from sklearn.linear_model import Ridge

    alpha = float(model.lambda_ / model.alpha_)
    note = f"the precisions that the data chose are held fixed: a ridge with alpha=lambda_/alpha_={alpha:.4g}"
    return _plain(model, Ridge, note, alpha=alpha)


def _ard(model: Any) -> Chosen:
    """A ridge on columns over the square root of their precisions, with which all have the same penalty."""
    from sklearn.linear_model import Ridge
    from sklearn.pipeline import Pipeline
    from sklearn.preprocessing import FunctionTransformer

    kept = np.asarray(model.coef_) != 0
    units = np.where(kept, 1 / np.sqrt(np.asarray(model.lambda_, dtype=np.float64)), 0.0)
    scaled = FunctionTransformer(_times, kw_args={"units": units}, feature_names_out="one-to-one")
    ridge = Ridge(alpha=1 / float(model.alpha_), fit_intercept=model.fit_intercept)
    fitted = np.divide(model.coef_, units, out=np.zeros(len(units)), where=kept)
    names = ("n_features_in_", "feature_names_in_")
    seen = {name: getattr(model, name) for name in names if hasattr(model, name)}
    vars(ridge).update(coef_=fitted, intercept_=model.intercept_, n_features_in_=len(units))
    vars(scaled).update(seen)
    note = (
        f"the precisions that the data chose are held fixed, and which columns they left ({int(kept.sum())} of "
        f"{len(kept)}): a ridge on columns over the square root of their precisions, in whose units coefficients are"
    )
    return Chosen(Pipeline([("precisions", scaled), ("ridge", ridge)]), (note,))


def _times(X: Any, units: np.ndarray) -> np.ndarray:
    return np.asarray(X) * units


def _gaussian_process(model: Any) -> Chosen | None:
    if model.optimizer is None:
        return None
    kind = type(model)
    plain = kind(**{**model.get_params(deep=False), "kernel": model.kernel_, "optimizer": None})
    fitted = {
        name: value for name, value in vars(model).items() if name.endswith("_") or name in FITTED_PROCESS
    }
    vars(plain).update(fitted)
    return Chosen(plain, (f"the kernel that was fitted is held fixed: {model.kernel_}",))


FITTED_PROCESS = ("n_targets", "_rng", "_y_train_mean", "_y_train_std")
"""What a fitted Gaussian process needs to predict, besides what ends in an underscore."""
WRAPPERS: dict[str, Callable[[Any], Chosen | None]] = {
    "BaseSearchCV": _search,
    "FrozenEstimator": _frozen,
    "TunedThresholdClassifierCV": _threshold,
    "FixedThresholdClassifier": _threshold,
    "CalibratedClassifierCV": _calibrated,
    "TransformedTargetRegressor": _target,
    "LogisticRegressionCV": _logistic_cv,
    "RidgeCV": _ridge_cv("Ridge"),
    "RidgeClassifierCV": _ridge_cv("RidgeClassifier"),
    "BayesianRidge": _bayesian_ridge,
    "ARDRegression": _ard,
    "GaussianProcessRegressor": _gaussian_process,
    "LassoCV": _net_cv("Lasso"),
    "ElasticNetCV": _net_cv("ElasticNet"),
}
"""What takes one layer off, by the name of scikit-learn's class."""

"""Least squares, with a penalty or without, also of classes, of a kernel's features and with an l1 penalty."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..linear.kernel_features import LARGE, FeatureMap
from ..losses import Squared, SquaredMargin
from .reading import Options, Reading, coefficients, intercept_of, on_weighted_mean
from .sparse_models import Active


def least_squares(model: Any, X: Any, options: Options) -> Reading:
    """What Ridge and LinearRegression minimise: 1/2 the sum of squares + alpha/2 ||coef||^2, alpha = 0 for the latter.

    On the mean loss that is l2 = alpha / n, for each target its own alpha if there are several; intercepts have no
    penalty. A refit without rows keeps alpha, thus the total penalty.

    Args:
        model: the fitted estimator.
        X: its n training inputs as it sees them.
        options: not used; nothing is left to choose.

    Raises:
        ValueError: for positive=True.
    """
    if model.positive:
        raise ValueError("positive=True is not supported: coefficients at the bound do not follow a Hessian")
    coef = coefficients(model)
    intercept = intercept_of(model, len(coef))
    alpha = np.asarray(getattr(model, "alpha", 0.0), dtype=np.float64).ravel()  # LinearRegression has none
    l2 = np.broadcast_to(alpha / X.shape[0], (len(coef),)).repeat(coef.shape[1])
    if intercept is not None:
        l2 = np.concatenate([l2, np.zeros(len(coef))])
    return Reading(coef, intercept, Squared(), l2, "total")


def ridge_classifier(model: Any, X: Any, options: Options) -> Reading:
    """What RidgeClassifier minimises: Ridge on targets -1 and +1, one class against the rest, thus l2 = alpha / n.

    Class weights are those of an example's own class in every output. A refit without rows keeps alpha.

    Args:
        model: the fitted estimator.
        X: its n training inputs as it sees them.
        options: not used; nothing is left to choose.

    Raises:
        ValueError: for positive=True.
    """
    found = least_squares(model, X, options)
    return Reading(found.coef, found.intercept, SquaredMargin(), found.l2, "total", weighs_examples=True)


def elastic_net(model: Any, X: Any, options: Options) -> Reading:
    """What ElasticNet and Lasso minimise: half the mean square + alpha (q ||coef||_1 + (1 - q)/2 ||coef||^2).

    q is l1_ratio. Columns at zero stay there (`Active`). A refit without rows keeps the penalty on the mean.

    Args:
        model: the fitted estimator.
        X: its n training inputs as it sees them.
        options: `sample_weight`, which scikit-learn scales to a mean of 1.

    Raises:
        ValueError: for positive=True, several targets with an l1 penalty, and weights that differ.
    """
    if model.positive:
        raise ValueError("positive=True is not supported: coefficients at the bound do not follow a Hessian")
    coef = coefficients(model)
    intercept = intercept_of(model, len(coef))
    strength = on_weighted_mean(model, float(model.alpha), options)
    l1, l2 = strength * model.l1_ratio, strength * (1 - model.l1_ratio)
    if l1 == 0:
        return Reading(coef, intercept, Squared(), l2, "mean")
    active = Active.of(model, coef, l1)
    return active.reading(intercept, Squared(), l2, "mean")


def kernel_ridge(model: Any, X: Any, options: Options) -> Reading:
    """What KernelRidge minimises: 1/2 the sum of squares + alpha/2 ||f||^2 in the space of its kernel, no intercept.

    In the features of the kernel (`FeatureMap`) f is linear, so that it is a ridge there: l2 = alpha / n. A refit
    without rows keeps alpha, and its f lies in the same space.

    Args:
        model: the fitted estimator.
        X: its n training inputs as it sees them.
        options: `rank`, the number of features that are kept.

    Raises:
        ValueError: for other training inputs than it was fitted on, a kernel that is not positive semi-definite.
    """
    if model.X_fit_.shape[0] != X.shape[0]:
        raise ValueError(
            f"X has {X.shape[0]} examples, the KernelRidge was fitted on {model.X_fit_.shape[0]}"
        )
    fitted = model.dual_coef_, model.alpha, model.predict(X)
    return _in_features(model, _kernel(model), X, fitted, options)


def gaussian_process(model: Any, X: Any, options: Options) -> Reading:
    """What the mean of a GaussianProcessRegressor minimises: 1/2 the sum of squares + noise/2 ||f||^2, no intercept.

    The noise is alpha and what a WhiteKernel adds to the diagonal: a KernelRidge with the kernel that was fitted, which
    is held. A refit without rows keeps the noise.

    Args:
        model: the fitted estimator.
        X: its n training inputs as it sees them.
        options: `rank`, the number of features that are kept.

    Raises:
        ValueError: for normalize_y=True, noise that differs between rows, and other training inputs than at its fit.
    """
    if model.normalize_y:
        raise ValueError(
            "GaussianProcessRegressor with normalize_y=True is not supported: put it into a TransformedTargetRegressor "
            "with a StandardScaler"
        )
    if len(model.X_train_) != X.shape[0]:
        raise ValueError(
            f"X has {X.shape[0]} examples, the GaussianProcessRegressor was fitted on {len(model.X_train_)}"
        )
    noise = np.ravel(model.alpha) + model.kernel_.diag(X) - np.diag(model.kernel_(X, X))
    if np.ptp(noise) > 1e-9 * np.abs(noise).max():
        raise ValueError(
            "GaussianProcessRegressor whose noise (alpha, the kernel's diagonal) differs between rows is not "
            "supported: use one alpha, or KernelRidge with sample weights"
        )
    said = model.kernel_(X, model.X_train_) @ model.alpha_
    return _in_features(model, model.kernel_, X, (model.alpha_, float(noise.mean()), said), options)


def _in_features(model: Any, kernel: Any, X: Any, fitted: tuple[Any, Any, Any], options: Options) -> Reading:
    """A ridge in the features of a kernel.

    Args:
        model: the fitted estimator.
        kernel: points (a, ...) and points (b, ...) -> (a, b).
        X: its n training inputs.
        fitted: its dual coefficients (n,) or (n, c), the strength of the penalty on the sum of squares, and what it
            predicts for X.
        options: `rank`, the number of features that are kept.
    """
    n, name = X.shape[0], type(model).__name__
    precomputed = getattr(model, "kernel", None) == "precomputed"
    phi = FeatureMap.of(kernel, X, rank=options.rank, large=n if precomputed else LARGE)
    features = phi(X)
    coef = np.asarray(fitted[0], dtype=np.float64).reshape(n, -1).T @ features
    l2 = np.broadcast_to(np.asarray(fitted[1], dtype=np.float64).ravel() / n, (len(coef),)).repeat(
        coef.shape[1]
    )
    away = float(np.abs(features @ coef.T - np.asarray(fitted[2]).reshape(n, -1)).max())
    size = float(np.abs(features @ coef.T).max())
    if options.rank is None and away > 1e-5 * max(size, 1e-300):
        raise ValueError(
            f"X is not what the {name} was fitted on: its predictions there are off by {away:.1e}"
        )
    notes = ["the kernel and its gamma are held fixed"]
    if options.rank is not None:
        notes.append(f"rank={options.rank} changes predictions at training points by up to {away:.1e}")
    return Reading(coef, None, Squared(), l2, "total", phi=phi, notes=tuple(notes))


def _kernel(model: Any) -> Any:
    """The kernel of a fitted KernelRidge."""
    if model.kernel == "precomputed":  # a point is its row of kernel values with the training points
        return lambda A, B: A
    from sklearn.metrics.pairwise import pairwise_kernels

    own = callable(model.kernel)
    settings = (
        dict(model.kernel_params or {})
        if own
        else {"gamma": model.gamma, "degree": model.degree, "coef0": model.coef0}
    )
    return lambda A, B: pairwise_kernels(A, B, metric=model.kernel, filter_params=not own, **settings)

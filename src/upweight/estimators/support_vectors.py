"""Support vector machines: linear ones, and those with a kernel as linear models in its features."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from scipy import sparse

from ..errors import ApproximationWarning
from ..linear.kernel_features import LARGE, FeatureMap, Kernel
from ..losses import SmoothHinge, SquaredHinge
from .reading import Reading, Wishes, coefficients, intercept_of, refuse_penalty

VISIBLE, HOPELESS = 0.01, 0.5
"""Changes of an SVC's decision function (its margin is 1) that are warned of, and refused."""


def linear_svc(model: Any, X: Any, wishes: Wishes) -> Reading:
    """LinearSVC: C times the sum of hinges or squared hinges + 1/2 ||coef||^2, one class against the rest."""
    if model.penalty != "l2":
        refuse_penalty(model, model.penalty, 'penalty="l2"')
    if model.multi_class != "ovr":
        raise ValueError(
            f'multi_class={model.multi_class!r} trains all classes with one loss of another kind; use "ovr"'
        )
    coef, l2 = coefficients(model), 1 / (model.C * X.shape[0])
    return Reading(
        coef,
        intercept_of(model, len(coef)),
        SmoothHinge(wishes.smoothing) if model.loss == "hinge" else SquaredHinge(),
        l2,
        "total",
        l2_intercept=liblinear_intercept(model, l2),
        counts_weights=True,
    )


def liblinear_intercept(model: Any, l2: float) -> float:
    """The penalty of an intercept that liblinear trained."""
    # liblinear appends a column of `intercept_scaling` and penalises its weight, b / intercept_scaling, like any other.
    return l2 / model.intercept_scaling**2 if model.fit_intercept else 0.0


def svc(model: Any, X: Any, wishes: Wishes) -> Reading:
    """SVC of two classes: C times the sum of hinges + 1/2 the norm of the decision function in its kernel's space."""
    if len(model.classes_) != 2:
        raise ValueError(
            f"SVC with {len(model.classes_)} classes trains a model for every pair of them (one against one), with no "
            "objective in common; use LinearSVC (one against the rest), or an SVC on two of the classes"
        )
    n = X.shape[0]
    if model.shape_fit_[0] != n:
        raise ValueError(f"X has {n} examples, the SVC was fitted on {model.shape_fit_[0]}")
    loss, l2 = SmoothHinge(wishes.smoothing), 1 / (model.C * n)
    if model.kernel == "linear":
        return Reading(coefficients(model), model.intercept_, loss, l2, "total")
    phi = FeatureMap.of(
        _kernel(model), X, rank=wishes.rank, large=n if model.kernel == "precomputed" else LARGE
    )
    features = phi(X)
    dual = model.dual_coef_.toarray() if sparse.issparse(model.dual_coef_) else model.dual_coef_
    coef = dual @ features[model.support_]
    change = np.abs(features @ coef[0] + model.intercept_[0] - model.decision_function(X)).max()
    notes = ("the kernel and its gamma are held fixed", *_approximated(float(change), wishes.rank))
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

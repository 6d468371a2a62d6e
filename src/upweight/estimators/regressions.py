"""Regressions with other losses than the squared one: generalised linear, robust, of quantiles, support vectors."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from ..losses import (
    Huber,
    LinearLoss,
    SmoothEpsilonInsensitive,
    SmoothPinball,
    Squared,
    SquaredEpsilonInsensitive,
    Tweedie,
)
from .reading import Options, Reading, coefficients, intercept_of, on_weighted_mean, refuse_penalty
from .sparse_models import Active
from .support_vectors import (
    CORNER,
    HELD_NU,
    dual_of,
    in_kernel_space,
    liblinear_intercept,
    support_of,
    with_corners,
)

BORDER = 1e-6
"""The share of its bound that a dual coefficient is away from either end, of rows on the border of a tube."""
POWERS = {"PoissonRegressor": 1.0, "GammaRegressor": 2.0}


def generalised(model: Any, X: Any, options: Options) -> Reading:
    """What Poisson-, Gamma- and TweedieRegressor minimise: the weighted mean of half deviances + alpha/2 ||coef||^2.

    Thus l2 = alpha, times the mean of the weights, which scikit-learn divides by. Intercepts have no penalty; a refit
    without rows keeps alpha on the mean. Outputs are logarithms of means.

    Args:
        model: the fitted estimator.
        X: its n training inputs as it sees them.
        options: `sample_weight`.

    Raises:
        ValueError: for powers where the loss is not convex, and weights that differ beside a penalty.
    """
    names = [kind.__name__ for kind in type(model).__mro__]
    power = next((POWERS[name] for name in names if name in POWERS), None)
    power = float(model.power) if power is None else power
    link = getattr(model, "link", "log")
    identity = link == "identity" or (link == "auto" and power <= 0)
    loss: LinearLoss
    if identity and power == 0:
        loss = Squared()
    elif not identity and 1 <= power <= 2:
        loss = Tweedie(power)
    else:
        raise ValueError(
            f"TweedieRegressor with power={power:g} and link={link!r} is not supported: its loss is not convex; use a "
            "power of 1 to 2 with the log link, or 0 with the identity"
        )
    coef = coefficients(model)
    l2 = on_weighted_mean(model, float(model.alpha), options)
    return Reading(coef, intercept_of(model, len(coef)), loss, l2, "mean")


def huber(model: Any, X: Any, options: Options) -> Reading:
    """What HuberRegressor minimises at its scale sigma: the sum of `Huber(epsilon sigma)` + a penalty.

    Times sigma / 2, and without what depends on sigma alone, its objective is that sum + alpha sigma / 2 ||coef||^2,
    thus l2 = alpha sigma / n. The scale is a parameter too, which further Newton steps fit along.

    Args:
        model: the fitted estimator.
        X: its n training inputs as it sees them.
        options: not used; nothing is left to choose.
    """
    coef, sigma = coefficients(model), float(model.scale_)
    note = (
        f"the scale sigma={sigma:.4g} that was fitted beside the coefficients is fitted anew by further Newton steps "
        "(of_each_removal) and refits; first order (Eq. 2) and single steps hold it, and so does the loss of test rows"
    )
    l2 = model.alpha * sigma / X.shape[0]
    return Reading(
        coef,
        intercept_of(model, 1),
        Huber(model.epsilon * sigma, float(model.epsilon)),
        l2,
        "total",
        notes=(note,),
    )


def sgd_regressor(model: Any, X: Any, options: Options) -> Reading:
    """What SGDRegressor minimises: the mean loss + alpha/2 ||coef||^2, thus l2 = alpha, no penalty on the intercept.

    A refit without rows keeps the penalty on the mean.

    Args:
        model: the fitted estimator.
        X: its n training inputs as it sees them.
        options: `smoothing` of the corners of the epsilon-insensitive loss.

    Raises:
        ValueError: for penalties with a kink and early stopping.
    """
    losses: dict[str, LinearLoss] = {
        "squared_error": Squared(),
        "huber": Huber(model.epsilon) if model.loss == "huber" else Squared(),
        "squared_epsilon_insensitive": SquaredEpsilonInsensitive(model.epsilon),
        "epsilon_insensitive": SmoothEpsilonInsensitive(model.epsilon, options.smoothed_over()),
    }
    if model.penalty not in ("l2", None) and not (model.penalty == "elasticnet" and model.l1_ratio == 0):
        refuse_penalty(model, model.penalty, 'penalty="l2", or ElasticNet')
    if model.early_stopping:
        raise ValueError(
            "early_stopping=True trains on a part of the data that is not recorded; use early_stopping=False"
        )
    coef = coefficients(model)
    l2 = 0.0 if model.penalty is None else float(model.alpha)
    return Reading(coef, intercept_of(model, 1), losses[model.loss], l2, "mean")


def linear_svr(model: Any, X: Any, options: Options) -> Reading:
    """What LinearSVR minimises: C times the sum of (squared) epsilon-insensitive losses + 1/2 ||coef||^2.

    Thus l2 = 1 / (C n), for the intercept too. A refit without rows keeps C.

    Args:
        model: the fitted estimator.
        X: its n training inputs as it sees them.
        options: `smoothing` of the corners of the epsilon-insensitive loss; the squared one needs none.
    """
    coef, l2 = coefficients(model), 1 / (model.C * X.shape[0])
    loss: LinearLoss = SquaredEpsilonInsensitive(model.epsilon)
    found = Reading(
        coef, intercept_of(model, 1), loss, l2, "total", l2_intercept=liblinear_intercept(model, l2)
    )
    if model.loss == "epsilon_insensitive":
        loss = SmoothEpsilonInsensitive(model.epsilon, options.smoothed_over())
        y = np.asarray(options.targets, dtype=float)
        outside = np.abs(y - model.predict(X)) > model.epsilon - CORNER * max(y.std(), model.epsilon)
        return with_corners(replace(found, loss=loss), model, np.flatnonzero(outside), len(y))
    return found


def svr(model: Any, X: Any, options: Options) -> Reading:
    """What an SVR minimises: C times the sum of epsilon-insensitive losses + 1/2 ||f||^2 in the space of its kernel.

    Args:
        model: the fitted estimator.
        X: its n training inputs as it sees them.
        options: `smoothing` of the corners, `rank` the number of features that are kept.

    Raises:
        ValueError: for other training inputs than it was fitted on, and a kernel that is not positive semi-definite.
    """
    found = in_kernel_space(
        model, X, SmoothEpsilonInsensitive(model.epsilon, options.smoothed_over()), options
    )
    return with_corners(found, model, support_of(model, options.sample_weight), X.shape[0])


def nu_svr(model: Any, X: Any, options: Options) -> Reading:
    """What a NuSVR minimises once the epsilon that its nu leads to is held: that of an SVR with this epsilon.

    Rows on the border of the tube have a dual coefficient between 0 and C: their residual is epsilon. A removal moves
    it, so that shown effects are refits.

    Args:
        model: the fitted estimator.
        X: its n training inputs as it sees them.
        options: as `svr` takes them, and `sample_weight`.

    Raises:
        ValueError: as `svr` does.
    """
    epsilon = _tube(model, X, options)
    found = in_kernel_space(model, X, SmoothEpsilonInsensitive(epsilon, options.smoothed_over()), options)
    note = HELD_NU.format("epsilon", model.nu, f"{epsilon:.4g}", "19 to 50")
    return replace(found, refitted=np.arange(X.shape[0]), notes=(*found.notes, note))


def _tube(model: Any, X: Any, options: Options) -> float:
    """Half the width of the tube of a NuSVR: the residual of rows on its border, or what lies between without any."""
    n = X.shape[0]
    residual, dual = np.abs(np.asarray(options.targets, dtype=float) - model.predict(X)), np.zeros(n)
    dual[support_of(model, options.sample_weight)] = np.abs(np.asarray(dual_of(model))[0])
    bound = model.C * (np.ones(n) if options.sample_weight is None else np.asarray(options.sample_weight))
    outside, inside = dual >= (1 - BORDER) * bound, dual <= BORDER * bound
    border = residual[~outside & ~inside]
    if len(border):
        return float(np.median(border))
    return float((residual[inside].max(initial=0.0) + residual[outside].min()) / 2)


def quantile(model: Any, X: Any, options: Options) -> Reading:
    """What QuantileRegressor minimises: the mean loss of the quantile + alpha ||coef||_1.

    Columns that the penalty left at zero stay there (`Active`). A refit without rows keeps the penalty on the mean.

    Args:
        model: the fitted estimator.
        X: its n training inputs as it sees them.
        options: `smoothing` of the corner, and `sample_weight`.

    Raises:
        ValueError: where all coefficients are zero, and for weights that differ beside a penalty.
    """
    coef, loss = coefficients(model), SmoothPinball(float(model.quantile), options.smoothed_over())
    intercept, l1 = intercept_of(model, 1), on_weighted_mean(model, float(model.alpha), options)
    every = np.arange(X.shape[0])
    if l1 == 0:
        return with_corners(Reading(coef, intercept, loss, 0.0, "mean"), model, every, len(every))
    found = Active.of(model, np.where(np.abs(coef) > 1e-12, coef, 0.0), l1)
    return with_corners(found.reading(intercept, loss, 0.0, "mean"), model, every, len(every))

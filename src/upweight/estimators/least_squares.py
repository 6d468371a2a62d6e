"""Least squares, with a penalty or without."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..losses import Squared
from .reading import Options, Reading, coefficients, intercept_of


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

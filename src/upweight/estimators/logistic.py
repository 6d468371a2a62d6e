"""Logistic regression, and linear classifiers that are trained by stochastic gradients."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import expit, softmax

from ..losses import Logistic, MarginLoss, ModifiedHuber, SmoothHinge, Softmax, SquaredHinge, SquaredMargin
from .reading import Options, Reading, coefficients, intercept_of, refuse_penalty
from .sparse_models import Active
from .support_vectors import liblinear_intercept, liblinear_l1


def logistic_regression(model: Any, X: Any, options: Options) -> Reading:
    """What LogisticRegression minimises: C times the sum of the losses + 1/2 ||coef||^2, thus l2 = 1 / (C n).

    Two classes and one against the rest are `Logistic`, several classes together `Softmax`. newton-cholesky was one
    against the rest in scikit-learn 1.4 and 1.5: its probabilities tell. liblinear penalises the intercept too. With an
    l1 penalty the columns at zero stay there (`Active`). A refit without rows keeps C, thus the total penalty.

    Args:
        model: the fitted estimator.
        X: its n training inputs as it sees them.
        options: not used; nothing is left to choose.

    Raises:
        ValueError: for several classes with an l1 penalty, and for two classes by the multinomial loss.
    """
    penalty = getattr(model, "penalty", "deprecated")
    share = {"l1": 1.0, "elasticnet": model.l1_ratio, "deprecated": model.l1_ratio}.get(penalty)
    coef, liblinear = coefficients(model), model.solver == "liblinear"
    scheme = getattr(model, "multi_class", "auto")  # gone since scikit-learn 1.8
    if scheme == "multinomial" and len(coef) == 1 and not liblinear:
        raise ValueError(
            'multi_class="multinomial" with two classes penalises its coefficients twice; leave multi_class out'
        )
    l2 = 0.0 if penalty in (None, "none") or math.isinf(model.C) else 1 / (model.C * X.shape[0])
    intercept = intercept_of(model, len(coef))
    separate = len(coef) == 1 or liblinear or scheme == "ovr"
    if not separate and model.solver == "newton-cholesky":
        separate = _one_against_the_rest(model, coef, intercept)
    if share and l2:
        l1_intercept = liblinear_l1(model, l2) if liblinear else 0.0
        found = Active.of(model, coef, share * l2, "l1" if share == 1 else "elasticnet").reading(
            intercept, Logistic(), (1 - share) * l2, "total", l1_intercept=l1_intercept
        )
        return replace(found, counts_weights=True)
    return Reading(
        coef,
        intercept,
        Logistic() if separate else Softmax(),
        l2,
        "total",
        l2_intercept=liblinear_intercept(model, l2) if liblinear else 0.0,
        counts_weights=True,
    )


def _one_against_the_rest(model: Any, coef: np.ndarray, intercept: np.ndarray | None) -> bool:
    """Whether the probabilities of several classes are those of models of their own rather than softmax."""
    point = (coef[:1] - coef[-1:]) / max(1.0, float(np.square(coef[0] - coef[-1]).sum()) ** 0.5)
    outputs = (point @ coef.T)[0] + (0.0 if intercept is None else intercept)
    names = getattr(model, "feature_names_in_", None)
    found = model.predict_proba(point if names is None else pd.DataFrame(point, columns=names))[0]
    alone, together = expit(outputs), softmax(outputs)
    return bool(np.abs(found - alone / alone.sum()).sum() < np.abs(found - together).sum())


def sgd(model: Any, X: Any, options: Options) -> Reading:
    """What SGDClassifier minimises: the mean loss + alpha/2 ||coef||^2, thus l2 = alpha, and no penalty on intercepts.

    A refit without rows keeps the penalty on the mean. Classes are trained one against the rest.

    Args:
        model: the fitted estimator.
        X: its n training inputs as it sees them.
        options: `smoothing` is that of the hinge.

    Raises:
        ValueError: for other losses than these five, penalties with a kink, early stopping.
    """
    losses: dict[str, MarginLoss] = {
        "hinge": SmoothHinge(options.smoothing),
        "squared_hinge": SquaredHinge(),
        "log_loss": Logistic(),
        "modified_huber": ModifiedHuber(),
        "squared_error": SquaredMargin(),
    }
    if model.loss not in losses:
        raise ValueError(f"loss={model.loss!r} is not supported; use one of {', '.join(losses)}")
    if model.penalty not in ("l2", None) and not (model.penalty == "elasticnet" and model.l1_ratio == 0):
        refuse_penalty(model, model.penalty, 'penalty="l2"')
    if model.early_stopping:
        raise ValueError(
            "early_stopping=True trains on a part of the data that is not recorded; use early_stopping=False"
        )
    coef = coefficients(model)
    l2 = 0.0 if model.penalty is None else float(model.alpha)
    return Reading(coef, intercept_of(model, len(coef)), losses[model.loss], l2, "mean")

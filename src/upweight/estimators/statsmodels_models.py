"""What fitted models of statsmodels maximised, in the words of linear models: a reader for each of their classes."""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..losses import (
    GeneralisedLinear,
    LinearLoss,
    Logistic,
    Proportion,
    ReferenceSoftmax,
    Squared,
    WithOffset,
)

GLM_INSTEAD = "GLM with the family and link that come nearest"


@dataclass(frozen=True, eq=False)
class StatsModel:
    """What a fitted model of statsmodels maximised, and how it is fitted again on some of its rows.

    Args:
        coef: the fitted coefficients (c, d).
        loss: the loss of one row, of outputs without an offset.
        weights: what the loss of each row is multiplied by (n,).
        offset: what is added to the output of each row (n,), or None.
        refitted: from some rows (index) to the results of the same model class fitted on them alone.
        binary: whether targets are 0 and 1 alone.
    """

    coef: np.ndarray
    loss: LinearLoss
    weights: np.ndarray
    offset: np.ndarray | None
    refitted: Callable[[np.ndarray], Any]
    binary: bool = False


def least_squares(results: Any) -> StatsModel:
    """What OLS, WLS and GLS with a diagonal sigma minimise: half the weighted sum of squares, weights or 1 / sigma.

    Args:
        results: the fitted results.

    Raises:
        ValueError: for a sigma that is not diagonal.
    """
    model = results.model
    n = len(model.endog)
    sigma = getattr(model, "sigma", None)  # of GLS alone
    weights = np.broadcast_to(np.asarray(getattr(model, "weights", 1.0), dtype=np.float64), (n,))
    if sigma is not None:
        sigma = np.asarray(sigma, dtype=np.float64)
        diagonal = np.diag(sigma) if sigma.ndim == 2 else np.broadcast_to(sigma, (n,))
        if sigma.ndim == 2 and np.any(sigma != np.diag(diagonal)):
            raise ValueError(
                "GLS with correlated rows is not supported: no row then has a loss of its own; ask about OLS of "
                "results.model.wendog on results.model.wexog, whose rows are combinations of yours"
            )
        weights = 1 / diagonal

    def refitted(rows: np.ndarray) -> Any:
        own = {} if sigma is None else {"sigma": 1 / weights[rows]}
        own = {"weights": weights[rows]} if hasattr(model, "weights") and sigma is None else own
        own = {} if type(model).__name__ == "OLS" else own
        return type(model)(model.endog[rows], model.exog[rows], **own).fit()

    return StatsModel(coefficients(results), Squared(), weights.copy(), None, refitted)


def generalised(results: Any) -> StatsModel:
    """What GLM maximises: the likelihood of its family, thus the least weighted sum of half deviances.

    Weights are freq_weights times var_weights times the number of trials. The dispersion is no parameter: it is
    estimated afterwards and multiplies nothing that moves.

    Args:
        results: the fitted results.

    Raises:
        ValueError: for families and links that are not known.
    """
    model = results.model
    trials = np.asarray(model.n_trials, dtype=np.float64)
    weights = np.asarray(model.freq_weights * model.var_weights, dtype=np.float64) * trials
    offset = offset_of(model)
    y, loss = np.asarray(model.endog, dtype=np.float64), family_of(model.family)
    endog = np.column_stack([y * trials, (1 - y) * trials]) if np.any(trials != 1) else y
    if loss.dispersed and np.any(model.freq_weights != 1):
        if np.any(model.var_weights != 1):
            raise ValueError(
                "freq_weights and var_weights together are not supported: repeat rows, or use one of them"
            )
        loss = GeneralisedLinear("gaussian", "identity") if loss == Squared() else loss
        loss = replace(loss, repeated=True)  # type: ignore[type-var]
    binary = type(model.family).__name__ == "Binomial" and bool(np.isin(y, (0, 1)).all())
    if binary and loss == Proportion("logit"):
        loss = Logistic()

    def refitted(rows: np.ndarray) -> Any:
        # A copy: a binomial family keeps the number of trials of the rows that it saw.
        own = {"family": copy(model.family)}
        own |= {name: getattr(model, name)[rows] for name in ("freq_weights", "var_weights")}
        if offset is not None:
            own["offset"] = offset[rows]
        again = type(model)(endog[rows], model.exog[rows], **own)
        return again.fit(start_params=np.asarray(results.params), tol=1e-12, maxiter=300)

    return StatsModel(coefficients(results), _shifted(loss, offset), weights, offset, refitted, binary)


def binary(results: Any) -> StatsModel:
    """What Logit and Probit maximise: the likelihood of zeros and ones (or of proportions) by their link.

    Args:
        results: the fitted results.
    """
    model = results.model
    whole = bool(np.isin(model.endog, (0, 1)).all())
    link = "probit" if "Probit" in _names(model) else "logit"
    loss: LinearLoss = Logistic() if whole and link == "logit" else Proportion(link)
    return _discrete(results, loss, whole)


def counts(results: Any) -> StatsModel:
    """What Poisson maximises: the likelihood of counts whose logarithmic mean is linear.

    Args:
        results: the fitted results.
    """
    return _discrete(results, GeneralisedLinear("poisson", "log"), False)


def multinomial(results: Any) -> StatsModel:
    """What MNLogit maximises: the likelihood of classes, of which the first is the reference.

    Args:
        results: the fitted results.
    """
    return _discrete(results, ReferenceSoftmax(), False)


def _discrete(results: Any, loss: LinearLoss, whole: bool) -> StatsModel:
    """A discrete model, which has no weights."""
    model, offset = results.model, offset_of(results.model)
    if offset is not None and not loss.separate_outputs:
        raise ValueError("an offset of several outputs is not supported; fit without it")

    def refitted(rows: np.ndarray) -> Any:
        own = {} if offset is None else {"offset": offset[rows]}
        again = type(model)(model.endog[rows], model.exog[rows], **own)
        start = np.asarray(results.params).ravel(order="F")
        return again.fit(start_params=start, method="newton", tol=1e-12, maxiter=300, disp=0)

    ones = np.ones(len(model.endog))
    return StatsModel(coefficients(results), _shifted(loss, offset), ones, offset, refitted, whole)


def _shifted(loss: LinearLoss, offset: np.ndarray | None) -> LinearLoss:
    return loss if offset is None else WithOffset(loss)


def coefficients(results: Any) -> np.ndarray:
    """The coefficients (c, d) of fitted results, one row per output: of MNLogit one for each class but the first."""
    found = np.asarray(results.params, dtype=np.float64)
    return (found.reshape(1, -1) if found.ndim == 1 else found.T).copy()


def offset_of(model: Any) -> np.ndarray | None:
    """The offset and the logarithm of the exposure together (n,), or None where there is neither."""
    parts = [
        getattr(model, name, None) for name in ("offset", "exposure")
    ]  # the exposure is a logarithm already
    given = [np.asarray(part, dtype=np.float64) for part in parts if part is not None and np.ndim(part)]
    total = sum(given) if given else None
    return None if total is None or not np.any(total) else np.asarray(total)


def _names(thing: Any) -> list[str]:
    """The names of an object's classes that are of statsmodels."""
    return [
        kind.__name__ for kind in type(thing).__mro__ if kind.__module__.partition(".")[0] == "statsmodels"
    ]


FAMILIES = {
    "Poisson": "poisson",
    "Gamma": "gamma",
    "InverseGaussian": "inverse gaussian",
    "Gaussian": "gaussian",
    "NegativeBinomial": "negative binomial",
    "Tweedie": "tweedie",
}
SHAPES = {"NegativeBinomial": "alpha", "Tweedie": "var_power"}
CHANCES = {
    "Probit": "probit",
    "Cauchy": "cauchy",
    "CLogLog": "cloglog",
    "LogLog": "loglog",
    "Log": "log",
    "Identity": "identity",
    "Logit": "logit",
}
LINKS = {
    "Log": "log",
    "Identity": "identity",
    "InversePower": "inverse",
    "InverseSquared": "inverse squared",
    "Sqrt": "sqrt",
    "Power": "power",
}


def family_of(family: Any) -> LinearLoss:
    """The loss of a family of statsmodels with its link.

    Args:
        family: `results.model.family`.

    Raises:
        ValueError: for links that have no place here, and classes of a user's own.
    """
    name, link = type(family).__name__, type(family.link)
    if link.__module__.partition(".")[0] != "statsmodels":
        raise ValueError(f"the link {link.__name__} is your own class: use one of statsmodels")
    if name == "Binomial":
        if link.__name__ in CHANCES:
            return Proportion(CHANCES[link.__name__])
    elif name in FAMILIES:
        shape = float(getattr(family, SHAPES[name])) if name in SHAPES else 1.0
        if link.__name__ == "NegativeBinomial" and name == "NegativeBinomial":
            if float(family.link.alpha) != shape:
                raise ValueError(
                    "the link NegativeBinomial has another alpha than its family: give both the same"
                )
            return GeneralisedLinear("negative binomial", "canonical", shape)
        if link.__name__ in LINKS:
            if (name, link.__name__) == ("Gaussian", "Identity"):
                return Squared()
            power = float(family.link.power) if link.__name__ == "Power" else 1.0
            return GeneralisedLinear(FAMILIES[name], LINKS[link.__name__], shape, power)
    raise ValueError(
        f"GLM of the family {name} with the link {link.__name__} is not supported; links are "
        f"{', '.join(CHANCES if name == 'Binomial' else LINKS)}"
    )


READERS: dict[str, Callable[[Any], StatsModel]] = {
    "OLS": least_squares,
    "WLS": least_squares,
    "GLS": least_squares,
    "GLM": generalised,
    "Logit": binary,
    "Probit": binary,
    "Poisson": counts,
    "MNLogit": multinomial,
}
"""Readers by the name of statsmodels' class of models, so that none of them need be imported."""

REFUSED = {
    "GLSAR": "its rows are correlated: ask about OLS of wendog on wexog",
    "GLMGam": "its penalty on curves is not read; use GLM on the columns of the splines",
    "MixedLM": "its random effects tie the rows of a group together; use OLS with a column for each group",
    "GEE": "its working correlation ties the rows of a group together; use GLM and ask by group",
    "RLM": "its scale is estimated anew as rows leave; use HuberRegressor and from_estimator",
    "QuantReg": "its optimum sits on corners; use QuantileRegressor and from_estimator, which smooths them",
    "PHReg": "its partial likelihood is read of lifelines; use CoxPHFitter",
    "NegativeBinomialP": f"its parameters of dispersion are not read; use NegativeBinomial, or {GLM_INSTEAD}",
    "GeneralizedPoisson": f"its parameters of dispersion are not read; use {GLM_INSTEAD}",
    "GenericZeroInflated": f"its two parts are not read; use {GLM_INSTEAD}",
    "OrderedModel": "its thresholds are not read; use MNLogit, or Logit for each threshold",
    "ConditionalLogit": "its groups tie rows together; use Logit with a column for each group",
    "BetaModel": f"its precision is not read; use {GLM_INSTEAD}",
    "TimeSeriesModel": "rows of a time series depend on each other; use OLS on lagged columns",
}
"""Models of statsmodels that are not supported by the name of their class, and what to use in their place."""


def reader_of(results: Any) -> Callable[[Any], StatsModel]:
    """The reader of a fitted model of statsmodels, by the names of its class and of the bases of that.

    Raises:
        TypeError: for a model or a fit that is not supported, with what to use in its place.
    """
    inner = getattr(results, "_results", results)
    fit = _names(inner)[0] if _names(inner) else type(inner).__name__
    if fit.startswith(("L1", "Regularized")):
        raise TypeError(
            "results of fit_regularized are not supported: they do not keep what penalty they were fitted with; use "
            "scikit-learn's Ridge, ElasticNet or LogisticRegression and from_estimator, or LinearProblem(l2=...)"
        )
    for name in _names(results.model):
        if name in REFUSED:
            raise TypeError(f"results of {type(results.model).__name__} are not supported: {REFUSED[name]}")
        if name in READERS:
            return READERS[name]
    raise TypeError(
        f"results of {type(results.model).__name__} are not supported: from_results knows those of "
        f"{', '.join(READERS)}; describe other linear models with LinearProblem and other differentiable ones with "
        "Problem"
    )

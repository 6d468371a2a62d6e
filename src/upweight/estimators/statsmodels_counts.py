"""NegativeBinomial of statsmodels, whose dispersion alpha is a parameter beside the coefficients."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pandas as pd
import torch

from ..data.user_terms import Terms
from ..likelihood import LikelihoodProblem, NegativeBinomial
from ..types import Tensor
from .exog import Exog
from .refitting import OWN
from .statsmodels_models import offset_of

POWERS = {"nb2": 2, "nb1": 1}
"""The power of the mean that alpha multiplies in the variance, by what statsmodels calls the likelihood."""


def is_negative_binomial(results: Any) -> bool:
    """Whether results are of the discrete model NegativeBinomial, fitted without a penalty."""
    inner = getattr(results, "_results", results)
    return type(results.model).__name__ == "NegativeBinomial" and not type(inner).__name__.startswith("L1")


def negative_binomial(results: Any) -> LikelihoodProblem:
    """The problem of a fitted NegativeBinomial at its parameters: theta is `params`, alpha itself the last.

    Args:
        results: the fitted results.

    Raises:
        ValueError: for the geometric likelihood.
    """
    model, offset = results.model, offset_of(results.model)
    if model.loglike_method not in POWERS:
        raise ValueError("the geometric likelihood is not supported; use GLM with NegativeBinomial(alpha=1)")
    columns = Exog(model, offset is not None)
    shift = np.zeros(len(model.endog)) if offset is None else offset

    def inputs(X: Any, y: Any) -> tuple[np.ndarray, np.ndarray]:
        found, targets = columns(X, y)
        own = targets if offset is not None else np.column_stack([targets, np.zeros(len(found))])
        return found, own.astype(np.float64)

    y = torch.from_numpy(np.column_stack([model.endog, shift]).astype(np.float64))
    exog = torch.from_numpy(np.array(model.exog, dtype=np.float64))
    index = model.data.row_labels
    problem = LikelihoodProblem(
        NegativeBinomial(exog, y, POWERS[model.loglike_method]),
        np.array(results.params, dtype=np.float64),
        weights=np.ones(len(y)),
        keep="total",
        terms=Terms(
            prepare=inputs,
            feature_names=tuple(map(str, model.exog_names))[: exog.shape[1]],
            train_index=None if index is None else pd.Index(index).to_flat_index(),
            notes=("outputs are linear predictors without an offset: the log of means",),
        ),
    )

    def refit(kept: Tensor) -> LikelihoodProblem:
        rows = kept.numpy()
        own = {} if offset is None else {"offset": offset[rows]}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it was said when it was fitted the first time
            again = type(model)(
                model.endog[rows], model.exog[rows], loglike_method=model.loglike_method, **own
            )
            fitted = again.fit(start_params=np.asarray(results.params), gtol=1e-10, maxiter=5000, disp=0)
        return problem.subset(kept).at(torch.from_numpy(np.array(fitted.params, dtype=np.float64)))

    problem.cache[OWN] = refit
    return problem

"""What the Cox models of lifelines maximised: the partial likelihood on the table that they were fitted on."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch

from ..data.user_terms import Terms, row_index
from ..likelihood import LikelihoodProblem, PartialLikelihood
from ..types import Tensor
from .refitting import OWN

SETTINGS = (
    "duration_col", "start_col", "stop_col", "entry_col", "event_col", "weights_col", "cluster_col", "id_col", "strata",
    "formula",
)  # fmt: skip
"""What a fit of lifelines is given beside its table."""


def cox(fitter: Any, table: Any) -> LikelihoodProblem:
    """The problem of a fitted CoxPHFitter or CoxTimeVaryingFitter at its parameters.

    The penalty is n penalizer / 2 times the squared coefficients of covariates over their standard deviation; a removal
    changes n and these deviations, which is followed.

    Args:
        fitter: the fitted model.
        table: the DataFrame that it was fitted on, which it does not keep.

    Raises:
        TypeError: without a table.
        ValueError: for settings that are not supported, and another table.
    """
    if not isinstance(table, pd.DataFrame):
        raise TypeError(
            "lifelines keeps no table: give the DataFrame that it was fitted on, from_results(fitter, table)"
        )
    if getattr(fitter, "baseline_estimation_method", "breslow") != "breslow":
        raise ValueError('CoxPHFitter with a parametric baseline is not supported; use "breslow"')
    if np.any(fitter.l1_ratio):
        raise ValueError(
            f"{type(fitter).__name__} with l1_ratio > 0 is not supported: it has a kink; use l1_ratio=0"
        )
    inputs = Covariates(fitter)
    X, y = inputs(table, None)
    weights = np.ones(len(table)) if fitter.weights_col is None else table[fitter.weights_col].to_numpy(float)
    names = tuple(map(str, fitter.params_.index))
    likelihood = PartialLikelihood(torch.from_numpy(X.copy()), torch.from_numpy(y))
    l2 = torch.as_tensor(np.asarray(fitter.penalizer, dtype=np.float64)) * likelihood.spread
    note = "the log hazard is relative: its mean over the training rows is not taken off"
    problem = LikelihoodProblem(
        likelihood,
        fitter.params_.to_numpy(float).copy(),
        l2=l2,
        weights=weights,
        keep="mean",
        terms=Terms(prepare=inputs, feature_names=names, train_index=row_index(table), notes=(note,)),
    )

    settings = {name: getattr(fitter, name) for name in SETTINGS if getattr(fitter, name, None) is not None}

    if "formula" not in settings:  # then every column that is left is a covariate
        special = [name for key in SETTINGS[:-1] for name in np.ravel(settings.get(key, [])).tolist()]
        table = table[list(dict.fromkeys([*special, *fitter.params_.index]))]

    def refit(kept: Tensor) -> LikelihoodProblem:
        again = type(fitter)(penalizer=fitter.penalizer)
        precise = {"precision": 1e-12, "max_steps": 500}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it was said when it was fitted the first time
            again.fit(table.iloc[kept.numpy()], fit_options=precise, **settings)
        theta = again.params_.reindex(fitter.params_.index).to_numpy(float).copy()
        return problem.subset(kept).at(torch.from_numpy(theta))

    problem.cache[OWN] = refit
    return problem


@dataclass(frozen=True, eq=False)
class Covariates:
    """Tables as the user has them -> covariates (m, d), and times, events and strata (m, 3), and times of entry (m, 4).

    Args:
        fitter: the fitted model.
    """

    fitter: Any

    def __call__(self, X: Any, y: Any) -> tuple[np.ndarray, np.ndarray]:
        """Make the covariates of a table; times and events are read where the table has them."""
        if not isinstance(X, pd.DataFrame):
            raise TypeError(f"give a table as it was fitted on, got {type(X).__name__}")
        covariates = self.fitter.regressors.transform_df(X)["beta_"][list(self.fitter.params_.index)]
        last, first = (
            _named(self.fitter, "duration_col", "stop_col"),
            _named(self.fitter, "entry_col", "start_col"),
        )
        known = np.zeros((len(X), 3 if first is None else 4))
        if last in X:
            known[:, 0] = X[last].to_numpy(float)
            event = self.fitter.event_col
            known[:, 1] = 1.0 if event is None else X[event].to_numpy(float)
        if first is not None and first in X:
            known[:, 3] = X[first].to_numpy(float)
        strata = self.fitter.strata
        if strata is not None:
            columns = [strata] if isinstance(strata, str) else list(strata)
            if set(columns) <= set(X.columns):
                known[:, 2] = X.groupby(columns, observed=True).ngroup().to_numpy(float)
        return covariates.to_numpy(float), known


def _named(fitter: Any, *names: str) -> str | None:
    """The first of some settings that a fitter has."""
    return next((getattr(fitter, name) for name in names if getattr(fitter, name, None) is not None), None)

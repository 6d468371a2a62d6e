"""From fitted results of statsmodels, lifelines, linearmodels and pyfixest to the problem that they solved."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pandas as pd
import torch

from ..data.user_terms import Terms
from ..likelihood import LikelihoodProblem
from ..linear.diagnostics import distance
from ..linear.existence import check_identified, check_separable
from ..linear.problem import LinearProblem
from ..losses import Logistic
from ..objective import Objective
from ..types import Tensor
from .absorbed import regression
from .exog import Exog
from .lifelines_models import cox
from .linearmodels_results import linearmodels_regression
from .pyfixest_results import pyfixest_regression
from .refitting import OWN, Refitting, check_finished
from .statsmodels_counts import is_negative_binomial, negative_binomial
from .statsmodels_models import StatsModel, coefficients, reader_of


def from_results(results: Any, table: Any = None, *, polish: bool = False) -> Objective:
    """The problem that fitted results of a statistics package solved, with rows and columns by name.

    statsmodels: OLS, WLS, GLS (diagonal), GLM of every family, Logit, Probit, Poisson, MNLogit and NegativeBinomial
    (alpha is a parameter), fitted on arrays, tables or by a formula. Theta is `params` in their order (MNLogit: the
    coefficients of one class after the other). Weights, offsets and exposures are read; the dispersion is no parameter.
    lifelines: CoxPHFitter and CoxTimeVaryingFitter, with weights, strata, penalty and late entry; the ties are Efron's.
    What a removal predicts is what fitting the same model class to the rows left gives; the columns that a formula of
    statsmodels made are held fixed.
    linearmodels: PanelOLS, PooledOLS, AbsorbingLS and IV2SLS; pyfixest: feols. Effects are absorbed, so that theta are
    the coefficients alone; what a removal does to the effects and to both stages is followed.

    Questions take batches as the model was fitted: `(frame, y)` for a formula, `(exog, y)` else, with the constant;
    `((exog, offset), y)` where it has an offset, the logarithm of an exposure among it; `(table, None)` for Cox.

    Args:
        results: what `fit` gave; it is not changed.
        table: the table that lifelines was given, which keeps none; of feols it gives the rows their names.
        polish: finishes a fit that stopped early by Newton steps before anything is answered.

    Returns:
        The problem at the fitted parameters: a `LinearProblem`, or for NegativeBinomial, Cox, absorbed effects and
        instruments one of its likelihood, of which `of_each_removal`, `of_removal`, `on_loss`, `on_params` and `verify`
        answer.

    Raises:
        TypeError: for models and fits that are not supported, with the nearest that is.
        ValueError: for settings and data that are not, likewise, and where the gradient at `params` is not zero.
        NotConvergedError: where polishing fails.

    >>> import pytest
    >>> sm = pytest.importorskip("statsmodels.api")
    >>> fitted = sm.OLS([1.0, 3.0, 2.0, 5.0], [[1.0, 0.0], [1.0, 1.0], [1.0, 2.0], [1.0, 3.0]]).fit()
    >>> from_results(fitted).theta
    tensor([1.1000, 1.1000], dtype=torch.float64)
    """
    packages = {kind.__module__.partition(".")[0] for kind in type(results).__mro__}
    if "linearmodels" in packages:
        return regression(linearmodels_regression(results))
    if "pyfixest" in packages:
        return regression(pyfixest_regression(results, table))
    names = [
        kind.__name__ for kind in type(results).__mro__ if kind.__module__.partition(".")[0] == "lifelines"
    ]
    found: LinearProblem | LikelihoodProblem
    if "CoxPHFitter" in names or "CoxTimeVaryingFitter" in names:
        found = cox(results, table)
        off = found.off
    elif names:
        raise TypeError(
            f"{type(results).__name__} of lifelines is not supported: from_results knows CoxPHFitter and "
            "CoxTimeVaryingFitter; describe other "
            "differentiable models with Problem"
        )
    elif not hasattr(results, "model") or not hasattr(results, "params"):
        raise TypeError(
            f"from_results takes what a model's fit gave, got {type(results).__name__}: pass model.fit(), and "
            "estimators of scikit-learn to from_estimator"
        )
    elif is_negative_binomial(results):
        found = negative_binomial(results)
        off = found.off
    else:
        found = _linear(results)
        off = distance(found)
    if polish:
        return _kept(found, found.minimised())
    check_finished(
        off, 'with a lower tolerance (GLM: tol=1e-10; discrete models: method="newton", maxiter=100)'
    )
    return found


def _kept(before: Objective, after: Objective) -> Objective:
    """A copy, which can still be fitted again."""
    after.cache[OWN] = before.cache[OWN]
    return after


def _linear(results: Any) -> LinearProblem:
    """The linear problem of results at their parameters, whatever its gradient."""
    read = reader_of(results)(results)
    model = results.model
    inputs, index = Exog(model, read.offset is not None), model.data.row_labels
    targets = np.asarray(model.endog, dtype=np.float64)
    y = targets if read.offset is None else np.column_stack([targets, read.offset])
    dropped = getattr(model.data, "missing_row_idx", None)
    notes = [
        read.loss.note,
        "the columns that the formula made are held fixed" if inputs.spec is not None else "",
    ]
    if dropped:
        notes.append(f"{len(dropped)} rows with missing values were dropped: rows are those that are left")
    problem = LinearProblem(
        np.asarray(model.exog, dtype=np.float64),
        y,
        read.coef,
        loss=read.loss,
        weights=read.weights,
        keep="total",
        terms=Terms(
            prepare=inputs,
            feature_names=tuple(map(str, model.exog_names[: model.exog.shape[1]])),
            train_index=None if index is None else pd.Index(index).to_flat_index(),
            classes=(0, 1) if read.loss.classifies else None,
            notes=tuple(filter(None, notes)),
        ),
    )
    check_identified(problem)
    if read.binary:  # whether data are separated is no matter of the link
        check_separable(
            LinearProblem(problem.design, targets, read.coef, loss=Logistic(), terms=problem.terms)
        )
    problem.cache[OWN] = _refitting(read, problem)
    return problem


def _refitting(read: StatsModel, problem: LinearProblem) -> Refitting:
    """How the model's own class is fitted again on some of the rows."""

    def refit(kept: Tensor) -> LinearProblem:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it was said when it was fitted the first time
            coef = coefficients(read.refitted(kept.numpy()))
        return problem.subset(kept).at(torch.from_numpy(coef.ravel()))

    return refit

"""From fitted results of statsmodels to the `LinearProblem` that they solved."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch

from ..data.user_terms import Terms
from ..linear.diagnostics import distance
from ..linear.existence import check_identified, check_separable
from ..linear.problem import LinearProblem
from ..losses import Logistic
from ..types import Tensor
from .refitting import OWN, Refitting
from .statsmodels_models import StatsModel, coefficients, reader_of

FAR = 0.1
"""The largest gradient, in what one row contributes to it, at which a fit counts as finished."""


def from_results(results: Any, *, polish: bool = False) -> LinearProblem:
    """The problem that fitted results of statsmodels solved, R = (1/n) sum_i w_i l_i, with rows and columns by name.

    For OLS, WLS, GLS (diagonal), GLM of every family, Logit, Probit, Poisson and MNLogit, fitted on arrays, tables or
    by a formula. Theta is `params` in their order (MNLogit: the coefficients of one class after the other). Weights,
    offsets and exposures are read; the dispersion is no parameter. What a removal predicts is what fitting the same
    model class to the rows left gives; the columns that a formula made are held fixed.

    Questions take batches as the model was fitted: `(frame, y)` for a formula, `(exog, y)` else, with the constant;
    `((exog, offset), y)` where it has an offset, the logarithm of an exposure among it.

    Args:
        results: what `fit` gave; it is not changed.
        polish: finishes a fit that stopped early by Newton steps before anything is answered.

    Returns:
        The problem, a `LinearProblem` at the fitted parameters.

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
    if not hasattr(results, "model") or not hasattr(results, "params"):
        raise TypeError(
            f"from_results takes what a model's fit gave, got {type(results).__name__}: pass model.fit(), and "
            "estimators of scikit-learn to from_estimator"
        )
    found = _problem(results)
    if polish:
        return found.minimised()
    off = distance(found)
    if not off <= FAR:
        raise ValueError(
            f"the gradient at the fitted parameters is {off:.3g} times what one row contributes to it, not zero: "
            "the fit stopped early or under constraints; fit with a lower tolerance (GLM: tol=1e-10; discrete models: "
            'method="newton", maxiter=100), or pass polish=True'
        )
    return found


def _problem(results: Any) -> LinearProblem:
    """The problem of results at their parameters, whatever its gradient."""
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


@dataclass(frozen=True, eq=False)
class Exog:
    """Batches as the user has them -> columns and targets as the model computes with them.

    Args:
        model: the model of statsmodels.
        offset: whether it has an offset, which inputs then bring along.
    """

    model: Any
    offset: bool

    @property
    def spec(self) -> Any:
        """What makes the columns of a formula, or None where there is none."""
        if not hasattr(self.model, "formula"):
            return None
        return getattr(self.model, "model_spec", None) or getattr(self.model.data, "model_spec", None)

    def __call__(self, X: Any, y: Any) -> tuple[np.ndarray, np.ndarray]:
        """Make the columns, and put the offset beside the targets.

        Raises:
            ValueError: for missing columns, rows that a formula drops, and offsets that are missing or not expected.
        """
        given = isinstance(X, tuple)
        if given != self.offset:
            raise ValueError(
                "the model has an offset: give ((exog, offset), y), the logarithm of an exposure in the offset"
                if self.offset
                else "the model has no offset: give (exog, y)"
            )
        X, offset = X if given else (X, None)
        columns, targets = self._columns(X), np.asarray(y)
        if offset is None:
            return columns, targets
        offset = np.broadcast_to(np.asarray(offset, dtype=np.float64), (len(columns),))
        return columns, np.column_stack([targets.astype(np.float64).reshape(-1), offset])

    def _columns(self, X: Any) -> np.ndarray:
        names = list(self.model.exog_names)[: self.model.exog.shape[1]]
        if not isinstance(X, pd.DataFrame):
            return np.asarray(X, dtype=np.float64)
        if self.spec is not None:
            made = _of_formula(self.spec, X)
            if len(made) != len(X):
                raise ValueError(
                    f"{len(X) - len(made)} rows of the batch have missing values: drop or fill them"
                )
            return made
        missing = [name for name in names if name not in X.columns]
        if missing and X.shape[1] == len(names) and all(isinstance(name, int) for name in X.columns):
            return X.to_numpy(dtype=np.float64)
        if missing:
            raise ValueError(f"the batch lacks columns that the model was fitted on: {missing[:10]}")
        return X[names].to_numpy(dtype=np.float64)


def _of_formula(spec: Any, frame: pd.DataFrame) -> np.ndarray:
    """The columns that a formula makes of a table, by the package that made them in training."""
    if type(spec).__module__.partition(".")[0] == "patsy":
        from patsy import dmatrix

        return np.asarray(dmatrix(spec, frame), dtype=np.float64)
    return np.asarray(spec.get_model_matrix(frame), dtype=np.float64)

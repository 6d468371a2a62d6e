"""What feols of pyfixest minimised: least squares with absorbed effects, and two-stage least squares."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from .absorbed import Regression

TOLERANCE = 1e-12
"""At which refits end to take the effects out."""


def pyfixest_regression(results: Any, table: Any = None) -> Regression:
    """The regression of a fit of feols.

    Args:
        results: what `feols` gave: one model.
        table: the DataFrame that it was fitted on, for the names of rows, which pyfixest does not keep; or None.

    Raises:
        TypeError: for other models, with what to use in their place.
        ValueError: for a fit that does not keep its data, and another table.
    """
    method = getattr(results, "_method", type(results).__name__)
    if method != "feols" or type(results).__name__ not in ("Feols", "Feiv"):
        raise TypeError(
            f"results of {type(results).__name__} ({method}) are not supported: of pyfixest from_results knows one fit "
            "of feols; use a GLM of statsmodels with a column for each group, or one of the fits of several"
        )
    if getattr(results, "_data", None) is None or not len(results._data):
        raise ValueError("this fit keeps no data: fit with store_data=True and lean=False")
    data, names = results._data, [str(name) for name in results._coefnames]
    made = _columns(results, data)
    effects = pd.DataFrame(index=data.index) if made.fixed_effects is None else made.fixed_effects
    weights = np.ones(len(data)) if made.weights is None else made.weights.to_numpy(float)[:, 0]
    instruments = made.instruments.to_numpy(float) if results._is_iv else None
    repeated = results._has_weights and results._weights_type == "fweights"

    def refitted(rows: np.ndarray) -> Mapping[str, float]:
        feols = importlib.import_module("pyfixest").feols
        again = feols(
            results._fml, data=data.iloc[rows], weights=results._weights_name, weights_type=results._weights_type,
            fixef_rm="singleton" if results._drop_singletons else "none", drop_intercept=results._drop_intercept,
            collin_tol=results._collin_tol, demeaner=replace(results._demeaner, fixef_tol=TOLERANCE),
            context=results._context, vcov="iid",
        )  # fmt: skip
        return {name: np.nan for name in names} | dict(again.coef())

    notes = ["the columns that the formula made are held fixed"]
    if results._has_fixef and results._drop_singletons:
        notes.append("rows that were alone in a group were dropped by feols: rows are those that are left")
    y, coef = made.dependent.to_numpy(float)[:, 0], results.coef()[names].to_numpy(float)
    return Regression(
        "pyfixest", made.independent[names], y, coef, weights,
        effects.rename(columns=_plain), _names(data, table), refitted,
        prepare=lambda frame: _of_frame(results, frame, names), instruments=instruments, repeated=repeated,
        notes=notes,
    )  # fmt: skip


def _columns(results: Any, data: pd.DataFrame) -> Any:
    """The columns of a fit's data before anything was taken out of them, by the function that made them."""
    make = importlib.import_module("pyfixest.estimation.formula.model_matrix").create_model_matrix
    made = make(
        formula=results.FixestFormula, data=data.copy(), weights=results._weights_name,
        drop_intercept=results._drop_intercept, context=results._context,
    )  # fmt: skip
    if len(made.dependent) != len(data):
        raise ValueError("the data that this fit keeps are not those that it was fitted on any more")
    return made


def _of_frame(results: Any, frame: Any, names: list[str]) -> np.ndarray:
    """The regressors of a batch, by the formula as it was fitted."""
    if not isinstance(frame, pd.DataFrame):
        return np.asarray(frame, dtype=np.float64)
    module = importlib.import_module("pyfixest.estimation.formula.model_matrix")
    known = {"i": module.factor_interaction, "log": module.log, **results._context}
    spec = results._model_spec
    made = spec.second_stage.rhs.get_model_matrix(frame.reset_index(drop=True), context=known)
    missing = [name for name in names if name not in made.columns]
    if missing or len(made) != len(frame):
        raise ValueError(
            f"the batch lacks columns that the model was fitted on, or has missing values: {missing[:10]}"
        )
    return np.asarray(made[names], dtype=np.float64)


def _names(data: pd.DataFrame, table: Any) -> pd.Index:
    """What the rows are called: by the table's index, or by their places in it."""
    if table is None:
        return data.index
    if not isinstance(table, pd.DataFrame) or not len(table) > int(data.index.max()):
        raise ValueError("give the DataFrame that feols was fitted on, from_results(fit, table)")
    return table.index[data.index].to_flat_index()


def _plain(name: str) -> str:
    """The name of an effect without what the formula's parser puts around it."""
    return name.removeprefix("__fixed_effect__(").removesuffix(")")

"""What fitted models of linearmodels minimised: PanelOLS, PooledOLS, AbsorbingLS, and two-stage least squares."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pandas as pd

from .absorbed import Regression

REFUSED = {
    "RandomEffects": "its theta is estimated again in every fit; use PanelOLS with entity_effects=True",
    "BetweenOLS": "a row of it is the mean of an entity; use OLS of statsmodels on the means",
    "FirstDifferenceOLS": "its rows are differences of yours; use OLS of statsmodels on the differences",
    "FamaMacBeth": "it is the mean of a fit for each period; use PanelOLS with time_effects=True",
    "IVLIML": "its kappa is an eigenvalue that moves with every row; use IV2SLS",
    "IVGMM": "its weights are estimated again in every fit; use IV2SLS",
    "IVGMMCUE": "its weights are estimated again in every fit; use IV2SLS",
}
"""Models of linearmodels that are not supported by the name of their class, and what to use in their place."""


def linearmodels_regression(results: Any) -> Regression:
    """The regression of fitted results of linearmodels.

    Args:
        results: what `fit` gave.

    Raises:
        TypeError: for models that are not supported, with what to use in their place.
    """
    model = results.model
    for kind in type(model).__mro__:
        if kind.__name__ in REFUSED:
            raise TypeError(f"results of {type(model).__name__} are not supported: {REFUSED[kind.__name__]}")
        if kind.__name__ in READERS:
            return READERS[kind.__name__](results)
    raise TypeError(
        f"results of {type(model).__name__} are not supported: of linearmodels from_results knows {', '.join(READERS)}"
    )


def _panel(results: Any) -> Regression:
    """PanelOLS and PooledOLS, after the rows that they dropped."""
    model = results.model
    y, X, w = (part.dataframe for part in (model.dependent, model.exog, model.weights))
    wanted = {name: getattr(model, name, False) for name in ("entity_effects", "time_effects")}
    effects = pd.DataFrame(index=y.index)
    for level, (name, given) in enumerate(wanted.items()):
        if given:
            effects[str(y.index.names[level] or name.partition("_")[0])] = y.index.get_level_values(level)
    if getattr(model, "other_effects", False):
        effects = effects.join(model._other_effect_cats.dataframe)
    columns, notes = _without_constant(list(results.params.index), X, effects)

    def refitted(rows: np.ndarray) -> Mapping[str, float]:
        own: dict[str, Any] = {"weights": w.iloc[rows]} if model._is_weighted else {}
        if hasattr(model, "entity_effects"):
            own |= {name: given for name, given in wanted.items() if given}
            own["singletons"] = model._singletons
            if model.other_effects:
                own["other_effects"] = model._other_effect_cats.dataframe.iloc[rows]
        again = type(model)(y.iloc[rows], X[list(results.params.index)].iloc[rows], **own)
        return again.fit().params

    return Regression(
        "linearmodels", X[columns], y.to_numpy(float)[:, 0], results.params[columns].to_numpy(float),
        w.to_numpy(float)[:, 0] if model._is_weighted else np.ones(len(y)),
        effects, y.index.to_flat_index(), refitted, notes=notes,
    )  # fmt: skip


def _absorbing(results: Any) -> Regression:
    """AbsorbingLS, all of whose absorbed columns are categories."""
    model = results.model
    absorbed = model._absorb_inter
    if model._interaction_list or absorbed.cont.shape[1]:
        raise ValueError(
            "AbsorbingLS with absorbed interactions or continuous columns is not supported: put these among exog, and "
            "categories alone in absorb"
        )
    y, X = model._dependent.pandas, model._exog.pandas
    w = model._weight_data.pandas if model._is_weighted else None
    columns, notes = _without_constant(list(results.params.index), X, absorbed.cat)

    def refitted(rows: np.ndarray) -> Mapping[str, float]:
        again = type(model)(
            y.iloc[rows], X[list(results.params.index)].iloc[rows], absorb=_used(absorbed.cat.iloc[rows]),
            weights=None if w is None else w.iloc[rows], drop_absorbed=True,
        )  # fmt: skip
        precise = {"absorb_options": {"atol": 1e-14, "btol": 1e-14}, "method": "lsmr"}
        return again.fit(**precise).params

    return Regression(
        "linearmodels", X[columns], y.to_numpy(float)[:, 0], results.params[columns].to_numpy(float),
        np.ones(len(y)) if w is None else w.to_numpy(float)[:, 0],
        absorbed.cat, y.index.to_flat_index(), refitted, notes=notes,
    )  # fmt: skip


def _used(categories: pd.DataFrame) -> pd.DataFrame:
    """Categories without the levels that no row has."""
    return categories.apply(lambda column: column.cat.remove_unused_categories())


def _two_stage(results: Any) -> Regression:
    """IV2SLS: regressors that are their own instruments, endogenous ones, and instruments."""
    model = results.model
    y, exog, endog, more = (
        part.pandas for part in (model.dependent, model.exog, model.endog, model.instruments)
    )
    w, weighted = model.weights.pandas, bool(np.ptp(model.weights.ndarray))
    X, Z = pd.concat([exog, endog], axis=1), pd.concat([exog, more], axis=1)

    def refitted(rows: np.ndarray) -> Mapping[str, float]:
        parts = (None if not part.shape[1] else part.iloc[rows] for part in (exog, endog, more))
        return type(model)(y.iloc[rows], *parts, weights=w.iloc[rows] if weighted else None).fit().params

    return Regression(
        "linearmodels", X, y.to_numpy(float)[:, 0], results.params[list(X.columns)].to_numpy(float),
        w.to_numpy(float)[:, 0] if weighted else np.ones(len(y)),
        pd.DataFrame(index=y.index), y.index.to_flat_index(), refitted,
        instruments=Z.to_numpy(float) if endog.shape[1] else None,
    )  # fmt: skip


def _without_constant(
    names: list[str], X: pd.DataFrame, effects: pd.DataFrame
) -> tuple[list[str], list[str]]:
    """The columns that are coefficients beside effects, and what is said of a constant that is none.

    Args:
        names: the columns that were fitted.
        X: the regressors.
        effects: what was absorbed.
    """
    if not effects.shape[1]:
        return names, []
    constant = [name for name in names if np.ptp(X[name].to_numpy(float)) == 0]
    notes = [f"{name}, the mean of the effects, is no coefficient of its own" for name in constant]
    return [name for name in names if name not in constant], notes


READERS: dict[str, Callable[[Any], Regression]] = {
    "PanelOLS": _panel,
    "PooledOLS": _panel,
    "AbsorbingLS": _absorbing,
    "IV2SLS": _two_stage,
}

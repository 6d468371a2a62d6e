"""The regression that a statistician would fit to a table: columns as they are, no penalty, complete rows only."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd

from ..estimators import from_estimator
from .default_models import indicator_name
from .reading import FileError

if TYPE_CHECKING:
    from ..objective import Objective
    from .columns import Table


class PlainRegression(NamedTuple):
    """The fitted problem, the rows of the table that it was fitted to, and what to know about it, a sentence each."""

    problem: Objective
    rows: pd.Index
    notes: tuple[str, ...]


def plain_regression(table: Table) -> PlainRegression:
    """Least squares for a quantity, logistic regression without a penalty for two classes.

    Numbers stay in their units, dates count in days, a category has an indicator for each of its values but the first.

    Args:
        table: the columns, understood.

    Raises:
        FileError: for columns of text or images, more than two classes, and classes that are separated.
    """
    from sklearn.linear_model import LinearRegression, LogisticRegression

    odd = [*table.columns("text"), *table.columns("image")]
    if odd:
        raise FileError(
            f"a regression has no coefficient for {', '.join(odd)}, which is text or images: leave it out with --drop, "
            "or say with --number or --category what it holds"
        )
    complete = table.X[table.X.notna().all(axis=1)]
    categories = table.columns("category")
    X = pd.get_dummies(complete, columns=categories, drop_first=True, dtype=float, prefix_sep="\0")
    X.columns = [indicator_name(*name.split("\0")) if "\0" in name else name for name in X.columns]
    X, y = X.astype(float), table.y.loc[X.index]
    left = len(table.X) - len(X)
    notes = [f"{left:,} rows with missing values are left out."] if left else []
    if not table.classifies:
        model = LinearRegression().fit(X, y)
        notes.append(
            f"Least squares of {table.y.name} on {X.shape[1]} columns as they are, with an intercept."
        )
        return PlainRegression(from_estimator(model, X, y), X.index, tuple(notes))
    if y.nunique() != 2:
        raise FileError(
            f"{table.y.name} has {y.nunique()} classes: coefficients are asked about for quantities and for two classes"
        )
    deviations = X.std().where(X.std() > 0, 1.0)
    model = LogisticRegression(C=np.inf, tol=1e-10, max_iter=10_000).fit(X / deviations, y)
    model.coef_ = model.coef_ / deviations.to_numpy()
    notes.append(
        f"Logistic regression without a penalty of {table.y.name} on {X.shape[1]} columns as they are."
    )
    return PlainRegression(from_estimator(model, X, y, polish=True), X.index, tuple(notes))

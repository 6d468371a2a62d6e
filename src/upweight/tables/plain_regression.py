"""The regression that a statistician would fit to a table: columns as they are, no penalty, complete rows only."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd
import torch

from ..data.user_terms import Terms
from ..errors import NotConvergedError
from ..estimators import from_estimator
from ..likelihood import LikelihoodProblem, PartialLikelihood
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


def plain_regression(table: Table, event: str | None = None) -> PlainRegression:
    """Least squares for a quantity, logistic regression without a penalty for two classes, Cox's model for times.

    Numbers stay in their units, dates count in days, a category has an indicator for each of its values but the first.

    Args:
        table: the columns, understood.
        event: the column that says whether the target is the time of an event (1) or of censoring (0): Cox's model.

    Raises:
        FileError: for columns of text or images, more than two classes, and classes that are separated; for an event
            column of other values, times that are no numbers, and covariates that determine no optimum.
    """
    from sklearn.linear_model import LinearRegression, LogisticRegression

    odd = [*table.columns("text"), *table.columns("image")]
    if odd:
        raise FileError(
            f"a regression has no coefficient for {', '.join(odd)}, which is text or images: leave it out with --drop, "
            "or say with --number or --category what it holds"
        )
    X = table.X if event is None else table.X.drop(columns=event, errors="ignore")
    complete = X[X.notna().all(axis=1)]
    categories = [name for name in table.columns("category") if name != event]
    X = pd.get_dummies(complete, columns=categories, drop_first=True, dtype=float, prefix_sep="\0")
    X.columns = [indicator_name(*name.split("\0")) if "\0" in name else name for name in X.columns]
    X, y = X.astype(float), table.y.loc[X.index]
    left = len(table.X) - len(X)
    notes = [f"{left:,} rows with missing values are left out."] if left else []
    if event is not None:
        problem = _cox(X, table.rows.loc[X.index, table.y.name], table.rows.loc[X.index, event])
        notes.append(
            f"Cox's model of {table.y.name} on {X.shape[1]} columns as they are, Efron's ties, {event} = 1 an event."
        )
        return PlainRegression(problem, X.index, tuple(notes))
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


def _cox(X: pd.DataFrame, time: pd.Series, event: pd.Series) -> LikelihoodProblem:
    """Cox's model of columns without a penalty, at its optimum.

    Args:
        X: the columns.
        time: when rows had their event or were last seen.
        event: whether they had it: 1 or 0.
    """
    if not pd.api.types.is_numeric_dtype(time):
        raise FileError(f"{time.name} has values that are no numbers: Cox's model needs times")
    if not set(event.unique().tolist()) <= {0, 1} or not event.any():
        seen = ", ".join(map(repr, event.unique().tolist()[:5]))
        raise FileError(f"{event.name} must hold 1 for an event and 0 for none, and an event: it has {seen}")
    columns = torch.from_numpy(X.to_numpy(float).copy())
    outcomes = np.column_stack([time.to_numpy(float), event.to_numpy(float), np.zeros(len(X))])
    start = LikelihoodProblem(
        PartialLikelihood(columns, torch.from_numpy(outcomes)),
        np.zeros(X.shape[1]),
        weights=np.ones(len(X)),
        keep="total",
        terms=Terms(feature_names=tuple(X.columns), train_index=X.index),
    )
    try:
        return start.minimised()
    except NotConvergedError as missing:
        raise FileError(
            f"Cox's model of {time.name} has no optimum: columns that follow from others, or that tell who has an "
            "event from who has none; leave some out with --drop"
        ) from missing

"""The regression that a statistician would fit to a table: columns as they are, no penalty, complete rows only."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from ..estimators import from_estimator
from ..influence.influence import Influence
from ..objective import Objective
from ..runtime.progress import phase
from ..types import Batch
from .columns import Table
from .default_models import indicator_name
from .file_models import FileModel
from .reading import FileError


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
    X = written_out(table, table.X[table.X.notna().all(axis=1)])
    y = table.y.loc[X.index]
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
            f"{table.y.name} has {y.nunique()} classes: coefficients are asked about for quantities and for two "
            f"classes; if it is a quantity, say --number {table.y.name}"
        )
    deviations = X.std().where(X.std() > 0, 1.0)
    model = LogisticRegression(C=np.inf, tol=1e-10, max_iter=10_000).fit(X / deviations, y)
    model.coef_ = model.coef_ / deviations.to_numpy()
    notes.append(
        f"Logistic regression without a penalty of {table.y.name} on {X.shape[1]} columns as they are."
    )
    return PlainRegression(from_estimator(model, X, y, polish=True), X.index, tuple(notes))


def written_out(table: Table, X: pd.DataFrame, names: Sequence[str] | None = None) -> pd.DataFrame:
    """Columns as numbers: a category has an indicator for each of its values but the first.

    Args:
        table: says which are categories.
        X: rows with its columns.
        names: the columns that are wanted; None: as these rows have them.
    """
    categories, first = table.columns("category"), names is None
    found = pd.get_dummies(X, columns=categories, drop_first=first, dtype=float, prefix_sep="\0")
    found.columns = [indicator_name(*name.split("\0")) if "\0" in name else name for name in found.columns]
    return (found if names is None else found.reindex(columns=list(names), fill_value=0)).astype(float)


def plain_model(table: Table) -> tuple[FileModel, pd.Index]:
    """The plain regression as the model of a file, and the rows that it was fitted to.

    Args:
        table: the columns, understood.

    Raises:
        FileError: as `plain_regression` does.
    """
    with phase(f"fitting {len(table.X):,} rows"):
        problem, rows, notes = plain_regression(table)
    names = problem.feature_names

    def batches(other: pd.DataFrame, folder: Path) -> Batch:
        X, y = table.batch(other, folder)
        return written_out(table, X, names), y

    model = FileModel(notes[-1], Influence(problem), batches, table.kinds, table.classifies, notes)
    return model, rows

"""Cox's model of a table whose target is the time of an event or of censoring, as a statistician would fit it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import torch

from ..data.user_terms import Terms
from ..errors import NotConvergedError
from ..influence.influence import Influence
from ..likelihood import LikelihoodProblem, PartialLikelihood
from ..runtime.progress import phase
from .columns import Table
from .file_models import FileModel
from .plain_regression import written_out
from .reading import FileError, check_column


def cox_model(model: FileModel, table: Table, event: str) -> FileModel:
    """Cox's model in the place of the plain regression of a file, of the same rows: no penalty, Efron's ties.

    Args:
        model: the plain regression of the times, whose rows and kinds of columns are taken.
        table: the columns, understood; the target holds times.
        event: the column with 1 for rows whose time is that of an event, 0 for censored ones.

    Raises:
        FileError: for an event column of other values, times that are no numbers, and no optimum.
    """
    check_column(table.rows, event)
    complete = table.X[table.X.notna().all(axis=1)]
    X = written_out(table, complete)
    mine = [name for name in X.columns if name != event and not name.startswith(f"{event} = ")]
    X = X[mine]
    time, happened = (table.rows.loc[X.index, name] for name in (str(table.y.name), event))
    with phase(f"fitting {len(X):,} rows"):
        problem = _fitted(X, time, happened)
    said = (
        f"Cox's model of {time.name} on {X.shape[1]} columns as they are, Efron's ties, {event} = 1 an event."
    )
    return replace(model, influence=Influence(problem), notes=(*model.notes[:-1], said))


def _fitted(X: pd.DataFrame, time: pd.Series, event: pd.Series) -> LikelihoodProblem:
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
    outcomes = np.column_stack([time.to_numpy(float), event.to_numpy(float), np.zeros(len(X))])
    start = LikelihoodProblem(
        PartialLikelihood(torch.from_numpy(X.to_numpy(float).copy()), torch.from_numpy(outcomes)),
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

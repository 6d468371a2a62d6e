"""Inputs and labels as a user has them, turned into what the linear model of an estimator computes with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy import sparse

from ..data.design import Design
from .reading import Features

HELD = "the pipeline's transformers are applied as fitted and held fixed"


@dataclass(frozen=True, eq=False)
class Inputs:
    """Inputs as the user has them -> the numbers (m, d) that the linear model computes with.

    Args:
        estimator: what was fitted, whose columns the inputs must have.
        transform: the fitted transformers before the model, or None.
        phi: the features that the model is linear in, or None where it is linear in what it is fed.
    """

    estimator: Any
    transform: Any
    phi: Features | None = None

    def __call__(self, X: Any) -> Any:
        """Check the columns, apply the fitted transformers and then the feature map.

        Dense results are arrays in float32 or float64, sparse ones stay sparse, data on disk stay there.

        Raises:
            ValueError: for other columns than at fit.
            TypeError: for data on disk that transformers or a kernel would have to read, and for lazy frames.
        """
        if hasattr(X, "collect_schema") and not hasattr(X, "to_pandas"):
            raise TypeError("X is a lazy frame, whose rows nobody has yet: give X.collect()")
        if hasattr(X, "column_names") and hasattr(X, "to_pandas"):
            X = X.to_pandas()  # a table of Arrow: scikit-learn wants names that it can read
        if isinstance(X, (Design, np.memmap)) and self.transform is None and self.phi is None:
            check_columns(self.estimator, X)
            return X  # stays on disk
        if isinstance(X, Design):
            raise TypeError(
                "X is streamed from disk, which a pipeline's transformers, a kernel and an l1 penalty cannot read: "
                "give X in memory, or store what the transformers make of it and pass the final estimator"
            )
        if not sparse.issparse(X) and not isinstance(X, pd.Series) and not hasattr(X, "columns"):
            X = X.numpy() if isinstance(X, torch.Tensor) else _array(X)
        check_columns(self.estimator, X)
        if self.transform is not None:
            check_not_infinite(X)
            X = self.transform.transform(X)
        if not sparse.issparse(X):
            X = np.asarray(X)
            X = X if X.dtype in (np.float32, np.float64) else X.astype(np.float64)
        return X if self.phi is None else self.phi(X)


@dataclass(frozen=True, eq=False)
class Targets:
    """Labels as the user has them -> classes 0..c-1 (n,); numbers stay numbers where there are no classes.

    Args:
        classes: the labels in the order of the estimator's outputs, or None for a regression.

    >>> Targets(("no", "yes"))(["yes", "no", "no"]).tolist()
    [1, 0, 0]
    """

    classes: tuple[Any, ...] | None

    def __call__(self, y: Any) -> np.ndarray:
        """Look every label up.

        Raises:
            ValueError: for labels that the estimator has never seen, naming them, and for more than one column.
        """
        given = y.numpy() if isinstance(y, torch.Tensor) else np.asarray(y)
        if self.classes is None:
            return given.astype(np.float64)
        given = given.ravel() if given.ndim == 2 and given.shape[1] == 1 else given
        if given.ndim != 1:
            raise ValueError(f"y must have shape (n,), got {given.shape}")
        codes = pd.Index(self.classes).get_indexer(pd.Index(_alike(given, np.asarray(self.classes))))
        if (codes < 0).any():
            unseen = list(dict.fromkeys(given[codes < 0].tolist()))
            raise ValueError(
                f"y has labels that the estimator was not fitted on: {unseen[:5]}, first in example "
                f"{int(np.argmin(codes))}; it knows {list(self.classes)[:10]}"
            )
        return codes.astype(np.int64)


@dataclass(frozen=True, eq=False)
class TargetsOfColumns:
    """Several labels per example, as the user has them -> 0 and 1 (n, c), a column for each.

    Args:
        columns: how the labels of each column are looked up.

    >>> TargetsOfColumns((Targets(("no", "yes")), Targets((1, 2))))([["yes", 1], ["no", 2]]).tolist()
    [[1.0, 0.0], [0.0, 1.0]]
    """

    columns: tuple[Targets, ...]
    classes = None

    def __call__(self, y: Any) -> np.ndarray:
        """Look every label up. Raises ValueError for another number of columns, and as `Targets` does."""
        given = pd.DataFrame(
            y.toarray() if sparse.issparse(y) else np.asarray(y, dtype=object)
        ).infer_objects()
        if given.shape[1] != len(self.columns):
            raise ValueError(f"y must have {len(self.columns)} columns, got shape {given.shape}")
        each = [column(given[k]) for k, column in enumerate(self.columns)]
        return np.stack(each, axis=1).astype(np.float64)


def targets_of(model: Any, classifies: bool) -> Targets | TargetsOfColumns:
    """How the targets of a fitted model are looked up; `classifies` says whether they are one class per example."""
    if classifies:
        return Targets(tuple(model.classes_.tolist()))
    if hasattr(model, "multilabel_"):  # OneVsRestClassifier
        return TargetsOfColumns((Targets((0, 1)),) * len(model.classes_))
    if isinstance(getattr(model, "classes_", None), list):
        return TargetsOfColumns(tuple(Targets(tuple(names.tolist())) for names in model.classes_))
    return Targets(None)


def check_not_infinite(X: Any) -> None:
    """Refuse infinite cells before a transformer says so in its own words. NaN may be what it fills.

    Raises ValueError with the first such example, and the column where it has a name.

    >>> check_not_infinite(pd.DataFrame({"age": [31.0, float("inf")]}))
    Traceback (most recent call last):
    ...
    ValueError: X has an infinity, first in example 1, column 'age'; correct or drop such examples
    """
    if sparse.issparse(X):
        return
    columns = X.items() if isinstance(X, pd.DataFrame) else [(None, X)]
    for name, values in columns:
        dtype = getattr(values, "dtype", None)
        if isinstance(dtype, np.dtype) and dtype.kind == "f":
            bad = np.isinf(np.asarray(values))
            if bad.any():
                where = "" if name is None else f", column {name!r}"
                first = int(np.argwhere(bad)[0][0])
                raise ValueError(
                    f"X has an infinity, first in example {first}{where}; correct or drop such examples"
                )


def _alike(given: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """Labels as the classes are written where they mean the same: True and False are 1 and 0, also of pandas."""
    if given.dtype == object and pd.api.types.infer_dtype(given, skipna=False) in (
        "boolean",
        "integer",
        "floating",
    ):
        given = np.asarray(given.tolist())
    if given.dtype == bool and classes.dtype.kind in "iuf":
        return given.astype(classes.dtype)
    if classes.dtype == bool and given.dtype.kind in "iuf" and np.isin(given, (0, 1)).all():
        return given.astype(bool)
    return given


def _array(X: Any) -> np.ndarray:
    """Inputs as an array; lists of tokens, one list per example and each as long as it likes, stay lists."""
    if isinstance(X, (list, tuple)) and len({len(row) for row in X if isinstance(row, (list, tuple))}) > 1:
        found = np.empty(len(X), dtype=object)
        found[:] = X
        return found
    return np.asarray(X)


def _picks_columns(estimator: Any) -> bool:
    """Whether it begins with a ColumnTransformer, which takes what it needs of a table and nothing else."""
    steps: Any = getattr(estimator, "steps", None)
    return bool(steps) and any(kind.__name__ == "ColumnTransformer" for kind in type(steps[0][1]).__mro__)


def check_columns(estimator: Any, X: Any) -> None:
    """Refuse inputs with other columns than the estimator was fitted on: by their names, else by their number.

    Args:
        estimator: what was fitted; an estimator that keeps neither names nor their number accepts everything.
        X: inputs with a shape, before any transformer.

    Raises:
        ValueError: naming the columns that are missing, unexpected or in another order.
    """
    names = getattr(estimator, "feature_names_in_", None)
    if names is not None and hasattr(X, "columns"):
        if _picks_columns(estimator):  # by their names, says which are missing, and wants no others
            return
        expected, found = list(names), list(X.columns)
        missing = [name for name in expected if name not in found]
        unexpected = [name for name in found if name not in expected]
        parts = [f"missing {missing[:10]}"] if missing else []
        parts += [f"unexpected {unexpected[:10]}"] if unexpected else []
        if not parts and expected != found:
            parts = [f"reordered: {found[:10]} instead of {expected[:10]}"]
        if parts:
            raise ValueError(f"X has other columns than at fit: {'; '.join(parts)}")
        return
    count = getattr(estimator, "n_features_in_", None)
    if count is not None and len(X.shape) == 2 and X.shape[1] != count:
        raise ValueError(f"X has {X.shape[1]} columns, the estimator was fitted on {count}")


def with_columns_of(train: Any) -> Callable[[Any], Any]:
    """What gives inputs back that have the columns of the training inputs, and refuses others.

    Some libraries of trees take columns by their places, whatever their names are. `train` are the training inputs.
    """
    shape: tuple[int, ...] = getattr(train, "shape", ())
    seen = SimpleNamespace(n_features_in_=shape[1] if len(shape) == 2 else None)
    if hasattr(train, "columns"):
        seen.feature_names_in_ = list(train.columns)

    def checked(X: Any) -> Any:
        if hasattr(X, "shape"):
            check_columns(seen, X)
        return X

    return checked


def column_names(estimator: Any, transform: Any, X: Any) -> tuple[str, ...] | None:
    """The names of the columns that the model is fed, or None where nobody knows them.

    Args:
        estimator: what was fitted.
        transform: the fitted transformers before the model, or None.
        X: inputs as the user has them.
    """
    if transform is not None:
        try:
            names = transform.get_feature_names_out()
            return None if names is None else tuple(names)
        except (AttributeError, ValueError):  # a transformer that gives no names
            return None
    if isinstance(X, pd.DataFrame):
        return tuple(str(name) for name in X.columns)
    names = getattr(estimator, "feature_names_in_", None)
    return None if names is None else tuple(names)

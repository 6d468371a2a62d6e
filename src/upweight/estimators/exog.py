"""Batches for a model of statsmodels: the columns that it was fitted on, by name or by its formula."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd


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
            return np.array(X, dtype=np.float64)
        if missing:
            raise ValueError(f"the batch lacks columns that the model was fitted on: {missing[:10]}")
        return np.array(X[names], dtype=np.float64)


def _of_formula(spec: Any, frame: pd.DataFrame) -> np.ndarray:
    """The columns that a formula makes of a table, by the package that made them in training."""
    if type(spec).__module__.partition(".")[0] == "patsy":
        from patsy import dmatrix

        return np.asarray(dmatrix(spec, frame), dtype=np.float64)
    return np.asarray(spec.get_model_matrix(frame), dtype=np.float64)

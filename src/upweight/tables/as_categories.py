"""A transformer of tables for trees: columns of categories get those of the training table. It needs scikit-learn."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from sklearn.base import BaseEstimator, TransformerMixin

MOST = 254
"""Categories of a column, the most frequent ones: scikit-learn's trees take no more."""
RARE = "(rare)"
"""What other categories are called where a library takes no missing ones."""


class AsCategories(TransformerMixin, BaseEstimator):
    """Columns of categories as pandas categories, those of the table that it is fitted on; others stay as they are.

    A category that was not there, or that `MOST` others are more frequent than, is missing. Columns are numbered, as
    libraries refuse some letters in names; `get_feature_names_out` has the table's own.

    Args:
        names: the columns of categories.
        missing: whether categories may be missing; if not, they are words, and `RARE` stands for those.

    >>> found = AsCategories(["town"]).fit_transform(pd.DataFrame({"town": ["south", "north"]}))
    >>> found["column 0"].cat.categories.tolist()
    ['north', 'south']
    """

    def __init__(self, names: list[str], missing: bool = True) -> None:
        self.names = names
        self.missing = missing

    def fit(self, X: pd.DataFrame, y: Any = None) -> AsCategories:
        """The categories of a table are those that are given to all later ones."""
        self.categories_ = {
            name: np.sort(X[name].value_counts().index[:MOST].to_numpy(dtype=object)) for name in self.names
        }
        self.columns_ = np.asarray(X.columns, dtype=object)
        return self

    def transform(self, X: pd.DataFrame) -> pd.DataFrame:
        """A table with the same columns, its categories those that are known."""
        columns = [
            self._of(X[name], self.categories_[name]) if name in self.categories_ else X[name]
            for name in self.columns_
        ]
        return pd.concat(columns, axis=1).set_axis([f"column {j}" for j in range(len(columns))], axis=1)

    def get_feature_names_out(self, given: Any = None) -> np.ndarray:
        """The columns keep their names."""
        return self.columns_

    def _of(self, column: pd.Series, known: np.ndarray) -> pd.Series:
        kept = column.where(column.isin(known), None if self.missing else RARE)
        return kept.astype(pd.CategoricalDtype(known) if self.missing else object)

"""Rows of a table by their names, through an estimator: judged by refits without them."""

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.linear_model import Ridge

from upweight import Influence, from_estimator, mislabeled


def split_rows() -> tuple[pd.DataFrame, pd.Series]:
    """Rows of a table in the order of a split: names that are other rows' numbers."""
    rng = np.random.default_rng(0)
    table = pd.DataFrame(rng.normal(size=(60, 2)), columns=["a", "b"])
    y = table.a - table.b + rng.normal(size=60)
    order = rng.permutation(60)[:50]
    return table.loc[order], y.loc[order]


def test_rows_by_their_names_are_the_rows_that_refits_leave_out():
    X, y = split_rows()
    model = Ridge().fit(X, y)
    influence = Influence(from_estimator(model, X, y))
    names = mislabeled(influence).table.index[:3]
    without = Ridge().fit(X.drop(names), y.drop(names))
    truth = 0.5 * ((without.predict(X[:4]) - y[:4]) ** 2 - (model.predict(X[:4]) - y[:4]) ** 2)
    for rows in (names, X.index.isin(names), pd.Series(X.index.isin(names), X.index).sort_index()):
        found = influence.of_removal(rows, (X[:4], y[:4])).newton
        assert found is not None
        assert np.allclose(found[:, 0], truth, rtol=1e-9)
    with pytest.raises(
        ValueError, match=r"is the number of one training row, called \d+, and the name of another"
    ):
        influence.of_removal(list(names), (X[:4], y[:4]))


def test_test_labels_in_another_order_are_paired_by_their_index():
    X, y = split_rows()
    influence = Influence(from_estimator(Ridge().fit(X, y), X, y))
    wanted = influence.on_loss((X[:4], y[:4]))
    assert torch.equal(influence.on_loss((X[:4], y.sort_index())).values, wanted.values)
    with pytest.raises(ValueError, match="the targets has no entry for 1 of 4 rows"):
        influence.on_loss((X[:4], y[1:]))


def test_training_labels_in_another_order_are_refused():
    X, y = split_rows()
    model = Ridge().fit(X, y)
    with pytest.raises(ValueError, match="y and X differ in their index, first in row 0"):
        from_estimator(model, X, y.sort_index())
    with pytest.raises(ValueError, match="sample_weight and X differ in their index"):
        from_estimator(model, X, y, sample_weight=pd.Series(np.ones(50)))

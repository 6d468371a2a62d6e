"""Scales of columns without some rows, held against scalers of scikit-learn that are fitted on the others."""

import numpy as np
import pytest
import torch
from sklearn.preprocessing import MaxAbsScaler, MinMaxScaler, StandardScaler

from tests.support.compare import assert_close_per_row
from upweight.data.column_scales import LARGEST, RANGE, STANDARD, ColumnScales

X = np.random.default_rng(0).normal(2.0, 1.0, (12, 3))


@pytest.mark.parametrize(
    ("scaler", "kind", "scale"),
    [
        (StandardScaler(), STANDARD, "scale_"),
        (MinMaxScaler(), RANGE, "data_range_"),
        (MaxAbsScaler(), LARGEST, "max_abs_"),
    ],
)
def test_factors_are_those_of_scalers_fitted_without_the_rows(scaler, kind, scale):
    before = getattr(scaler.fit(X), scale).copy()
    given = scaler.transform(X)
    extreme = torch.from_numpy(np.unique([X.argmax(0), X.argmin(0)]))
    sets = [torch.tensor([3]), extreme, torch.arange(6), torch.arange(0)]
    scales = ColumnScales(torch.from_numpy(given), torch.tensor([0, 2, 3]), (kind,) * 3, 5)
    found = scales.factors(sets)
    wanted = torch.ones(4, 5, dtype=torch.float64)
    for g, rows in enumerate(sets):
        after = getattr(scaler.fit(np.delete(X, rows.numpy(), 0)), scale)
        wanted[g, scales.columns] = torch.from_numpy((after / before) ** 2)
    assert_close_per_row(found, wanted, 1e-12)
    assert_close_per_row(
        scales.take(torch.arange(6, 12)).factors(sets[:1]),
        ColumnScales(torch.from_numpy(given[6:]), scales.columns, scales.kinds, 5).factors(sets[:1]),
        1e-14,
    )


def test_a_column_that_becomes_constant_stays_as_it_is():
    scales = ColumnScales(torch.tensor([[1.0], [1.0], [3.0]]).double(), torch.tensor([0]), (STANDARD,), 1)
    assert scales.factors([torch.tensor([2])]).tolist() == [[1.0]]

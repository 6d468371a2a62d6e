"""Large models: what would not fit is said, and parts give what the whole gives."""

import numpy as np
import pytest
import torch
from sklearn.ensemble import GradientBoostingClassifier

import upweight as uw
from upweight.estimators import tree_models
from upweight.trees import problem as problems
from upweight.trees import stages

from ..support.compare import assert_close_per_row


@pytest.fixture
def fitted():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(90, 3))
    y = (X[:, 0] + 0.3 * rng.normal(size=90) > 0).astype(int)
    return GradientBoostingClassifier(n_estimators=6, random_state=0).fit(X, y), X, y


def test_too_many_rows_times_leaves_are_refused_with_how_many_there_may_be(fitted, monkeypatch):
    model, X, y = fitted
    problem = uw.from_estimator(model, X, y)
    influence = uw.Influence(problem)
    expected = influence.on_loss((X[:5], y[:5])).values
    monkeypatch.setattr(problems, "WRITTEN", 5 * problem.p)
    assert_close_per_row(influence.on_loss((X[:5], y[:5])).values, expected, 1e-12)
    with pytest.raises(ValueError, match=r"6 rows times .* leaf values .* at most 5 rows"):
        influence.on_loss((X[:6], y[:6]))
    with pytest.raises(ValueError, match="at most 5 rows"):
        influence.on_params(list(range(6)))
    assert influence.on_loss(
        (X, y), measure=uw.measures.Overall(lambda outputs, y: outputs.square().mean())
    ).values.shape == (1, 90)


def test_leaves_are_read_and_states_solved_in_parts(fitted, monkeypatch):
    model, X, y = fitted
    whole = uw.from_estimator(model, X, y)
    rows = torch.randn(4, whole.p, generator=torch.Generator().manual_seed(0)).double()
    expected = whole.stages.product(rows), whole.stages.solve_transposed(rows)
    monkeypatch.setattr(tree_models, "ROWS_AT_ONCE", 40)
    monkeypatch.setattr(stages, "AT_ONCE", 2 * whole.n)
    monkeypatch.setattr(stages, "worth_writing", lambda *_: False)
    parts = uw.from_estimator(model, X, y)
    assert torch.equal(parts.trained.structure.leaf, whole.trained.structure.leaf)
    assert_close_per_row(parts.stages.product(rows), expected[0], 1e-10)
    assert_close_per_row(parts.stages.solve_transposed(rows), expected[1], 1e-10)

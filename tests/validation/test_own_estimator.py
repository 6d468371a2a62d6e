"""The user's own estimator fitted again beside our refits: agreement where it was read rightly, and only there."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from upweight import Influence, from_estimator, verify

rng = np.random.default_rng(0)
X = rng.normal(size=(60, 3))
VALUE = X[:, 0] + rng.normal(size=60)
CLASS = (VALUE > 0).astype(int)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(
    ("model", "y"),
    [(Ridge(), VALUE), (LogisticRegression(tol=1e-10, max_iter=5000), CLASS)],
    ids=["ridge", "logistic"],
)
def test_a_right_reading_agrees(model, y, weighted):
    w = np.arange(60) % 3 + 1.0 if weighted else None
    problem = from_estimator(model.fit(X, y, sample_weight=w), X, y, sample_weight=w)
    found = verify(Influence(problem), (X[:2], y[:2]), k=4, random=2)
    assert found.estimator is not None
    assert found.estimator < 1e-3
    assert "your estimator, fitted again" in str(found)


def test_another_training_than_the_one_that_is_explained_shows():
    """Sample weights that were forgotten, and a pipeline whose scaler is fitted again."""
    w = np.where(X[:, 1] > 0, 9.0, 1.0)
    other = from_estimator(Ridge().fit(X, VALUE), X, VALUE)
    wrong = other.changed(weights=w)
    assert verify(Influence(wrong), (X[:2], VALUE[:2]), k=4).estimator is None  # no longer the user's
    problem = from_estimator(Ridge(alpha=5.0).fit(X, VALUE), X, VALUE)
    problem.cache["own estimator"] = other.cache["own estimator"]
    found = verify(Influence(problem), (X[:2], VALUE[:2]), k=4)
    assert found.estimator is not None
    assert found.estimator > 0.02
    piped = make_pipeline(StandardScaler(), Ridge(alpha=20.0)).fit(X, VALUE)
    found = verify(Influence(from_estimator(piped, X, VALUE)), (X[:2], VALUE[:2]), k=4)
    assert found.estimator is not None
    assert 1e-6 < found.estimator < 0.5

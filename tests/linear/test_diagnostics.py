"""Problems without an optimum, or not at it: what is said, and that nothing is said of the others."""

import warnings

import numpy as np
import pandas as pd
import pytest
from scipy import sparse
from sklearn.linear_model import LinearRegression, LogisticRegression

from tests.support.compare import assert_close_per_row
from tests.support.estimators import TARGETS, TIGHT, N, X, fitted
from upweight import (
    LinearProblem,
    NotStationaryWarning,
    from_estimator,
)


@pytest.mark.parametrize("labels", ["two", "three"])
def test_separated_without_a_penalty(labels: str):
    y = np.array(["low", "mid", "top"])[np.digitize(X[:N, 0], [0.3] if labels == "two" else [0.2, 0.8])]
    X_ = np.stack([X[:N, 0], X[:N, 0] ** 2], axis=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = LogisticRegression(C=np.inf, max_iter=3000, tol=1e-12).fit(X_, y)
    assert model.score(X_, y) == 1
    with pytest.raises(ValueError, match="no finite optimum"):
        from_estimator(model, X_, y)


@pytest.mark.parametrize("labels", ["two", "three"])
@pytest.mark.parametrize("intercept", [True, False])
def test_a_column_that_separates_a_part_is_named(labels: str, intercept: bool):
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(rng.normal(size=(300, 2)), columns=["a", "b"])
    noise = rng.normal(size=300)
    y = np.array(["low", "mid", "top"])[
        np.digitize(frame.a + noise, [0.3] if labels == "two" else [-0.5, 0.5])
    ]
    frame["rare"] = (np.arange(300) < 7).astype(float)

    def explained(y: np.ndarray) -> LinearProblem:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = LogisticRegression(C=np.inf, max_iter=3000, fit_intercept=intercept).fit(frame, y)
            return from_estimator(model, frame, y)

    assert len(set(y[:7])) > 1
    assert explained(y).p > 0  # both classes among the rare ones: an optimum
    y[:7] = "low"
    with pytest.raises(ValueError, match="'rare' separate a part of the training data"):
        explained(y)


@pytest.mark.parametrize("intercept", [True, False])
def test_columns_without_a_unique_optimum_are_named(intercept: bool):
    frame = pd.DataFrame(X[:N], columns=["a", "b", "c"])
    y = TARGETS["number"][:N]

    def explain(other):
        return from_estimator(LinearRegression(fit_intercept=intercept).fit(other, y), other, y)

    with pytest.raises(ValueError, match=r"all zero and have no penalty: 'zero';"):
        explain(frame.assign(zero=0.0))
    with pytest.raises(ValueError, match=r"dependent columns without a penalty: 'b', 'twice';"):
        explain(frame.assign(twice=2 * frame.b))
    with pytest.raises(ValueError, match=r"dependent columns without a penalty: 0, 2, 3;"):
        explain(sparse.csr_array(np.column_stack([X[:N], X[:N, 0] - X[:N, 2]])))
    with pytest.raises(ValueError, match="61 columns without a penalty and 60 examples"):
        explain(np.random.default_rng(0).normal(size=(N, 61)))
    one_hot = frame.assign(**{name: (frame.a > 0) == (name == "p") for name in "pq"})
    if intercept:
        with pytest.raises(ValueError, match=r"dependent .*: 'p', 'q', the intercept;"):
            explain(one_hot)
    else:
        explain(one_hot)
    far = explain(frame.assign(year=2000.0 + np.arange(N)))  # nearly parallel to the intercept, and fine
    assert float(far.gradient().norm()) < 1e-6


def test_not_at_the_optimum_and_polished():
    rough = LogisticRegression(C=10.0, tol=1e-1, max_iter=2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        rough.fit(X[:N], TARGETS["two"][:N])
    with pytest.warns(NotStationaryWarning, match=r"times what one example contributes.*pass polish=True"):
        from_estimator(rough, X[:N], TARGETS["two"][:N])
    polished = from_estimator(rough, X[:N], TARGETS["two"][:N], polish=True)
    tight = fitted(LogisticRegression(C=10.0, **TIGHT), "two")
    assert_close_per_row(polished.theta, tight.theta, 1e-6)
    with pytest.warns(NotStationaryWarning):  # other weights than it was fitted with
        from_estimator(
            LogisticRegression(**TIGHT).fit(X[:N], TARGETS["two"][:N]),
            X[:N],
            TARGETS["two"][:N],
            sample_weight=np.where(X[:N, 0] > 0, 9, 1),
        )


def test_an_exact_fit_is_no_cause_for_a_warning():
    y = X[:N] @ np.array([1.0, 2.0, 3.0]) + 4
    assert from_estimator(LinearRegression().fit(X[:N], y), X[:N], y).n == N

"""What readers of every family use: coefficients and intercepts in whatever form an estimator keeps them."""

from dataclasses import FrozenInstanceError
from types import SimpleNamespace

import numpy as np
import pytest
from scipy import sparse
from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge, SGDClassifier
from sklearn.svm import SVC, LinearSVC

from tests.support.compare import assert_close_per_row
from tests.support.estimators import SGD, TARGETS, N, X
from upweight import Squared
from upweight.estimators.reading import Options, Reading, coefficients, intercept_of, refuse_penalty


@pytest.mark.parametrize(
    ("estimator", "task", "c"),
    [
        (LinearRegression(), "number", 1),  # keeps (d,)
        (Ridge(), "numbers", 2),
        (LogisticRegression(), "two", 1),
        (LogisticRegression(), "three", 3),
        (LinearSVC(), "three", 3),
        (SVC(kernel="linear"), "two", 1),
    ],
    ids=str,
)
def test_coefficients_and_intercepts_make_the_estimators_own_decisions(estimator, task: str, c: int):
    model = estimator.fit(X[:N], TARGETS[task][:N])
    coef, intercept = coefficients(model), np.asarray(model.intercept_)
    assert coef.shape == (c, 3)
    decide = getattr(model, "decision_function", model.predict)
    eta = decide(X[N:]).reshape(8, c)
    assert_close_per_row(X[N:] @ coef.T + intercept, eta, 1e-12)
    if hasattr(model, "fit_intercept"):  # an SVC has one in any case
        found = intercept_of(model, c)
        assert found is not None
        assert found.shape == (c,)
        assert_close_per_row(X[N:] @ coef.T + found, eta, 1e-12)


def test_sparse_coefficients():
    model = SGDClassifier("log_loss", **SGD).fit(X[:N], TARGETS["three"][:N])
    kept = model.coef_.copy()
    assert np.array_equal(coefficients(model.sparsify()), kept)
    assert sparse.issparse(model.coef_), "the user's estimator stays as it is"
    row = SimpleNamespace(coef_=sparse.csr_matrix(np.ones((1, 3))))  # a linear SVC of sparse inputs
    assert coefficients(row).tolist() == [[1.0, 1.0, 1.0]]


@pytest.mark.parametrize(
    ("kept", "outputs", "wanted"),
    [(2, 1, [2.0]), (0.0, 3, [0.0, 0.0, 0.0]), ([5.0], 2, [5.0, 5.0]), ([[1.0, 2.0]], 2, [1.0, 2.0])],
)
def test_intercepts_are_one_per_output(kept, outputs: int, wanted: list[float]):
    model = SimpleNamespace(fit_intercept=True, intercept_=kept)
    found = intercept_of(model, outputs)
    assert found is not None
    assert found.dtype == np.float64
    assert found.tolist() == wanted
    found += 1  # a copy, not a view of the estimator's own numbers
    assert np.array_equal(np.asarray(model.intercept_), np.asarray(kept))
    assert intercept_of(SimpleNamespace(fit_intercept=False, intercept_=kept), outputs) is None


def test_intercepts_of_another_number_of_outputs_are_no_reading():
    with pytest.raises(ValueError, match="broadcast"):
        intercept_of(SimpleNamespace(fit_intercept=True, intercept_=[1.0, 2.0]), 3)


def test_a_penalty_with_a_kink_is_refused_by_name():
    with pytest.raises(
        ValueError,
        match=r"^Ridge with an l1 penalty is not supported: it has a kink at zero.*; use the l2 penalty$",
    ):
        refuse_penalty(Ridge(), "l1", "the l2 penalty")


def test_readings_and_options_never_change():
    reading = Reading(np.ones((1, 3)), None, Squared(), 0.1, "total")
    assert (reading.l2_intercept, reading.counts_weights, reading.phi, reading.notes) == (
        0.0,
        False,
        None,
        (),
    )
    for thing, field in ((reading, "l2"), (Options(1e-3, None), "rank")):
        with pytest.raises(FrozenInstanceError):
            setattr(thing, field, 2)

"""Readings of least squares: the objective term by term, and removals that are exact in one Newton step."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse
from sklearn.base import clone
from sklearn.linear_model import LinearRegression, Ridge

from tests.support.cases import draw
from tests.support.compare import assert_close_per_row
from tests.support.estimators import TARGETS, N, X, fitted, name
from upweight import Influence, Squared, from_estimator
from upweight.estimators.least_squares import least_squares
from upweight.estimators.reading import Options

OPTIONS = Options(smoothing=1e-3, rank=None)


@pytest.mark.parametrize("task", ["number", "numbers"])
@pytest.mark.parametrize(
    "estimator",
    [
        LinearRegression(),
        LinearRegression(fit_intercept=False),
        Ridge(alpha=7.0),
        Ridge(3, fit_intercept=False),
    ],
    ids=name,
)
def test_the_objective_is_half_the_squares_and_the_penalty(estimator, task: str):
    problem = fitted(estimator, task)
    assert problem.loss == Squared()
    assert problem.keep == "total"
    y, c, alpha = TARGETS[task][:N].reshape(N, -1), problem.c, getattr(estimator, "alpha", 0.0)
    for seed in range(3):
        theta = draw(problem.p, seed=seed)
        coef = theta[: 3 * c].view(c, 3).numpy()
        intercept = theta[3 * c :].numpy() if estimator.fit_intercept else np.zeros(c)
        squares = ((X[:N] @ coef.T + intercept - y) ** 2).sum()
        wanted = squares / 2 + alpha / 2 * (coef**2).sum()
        assert problem.at(theta).value() * N == pytest.approx(wanted, rel=1e-12)


def test_each_target_has_an_alpha_of_its_own():
    model = Ridge(alpha=[1.0, 100.0]).fit(X[:N], TARGETS["numbers"][:N])
    reading = least_squares(model, X[:N], OPTIONS)
    assert isinstance(reading.l2, np.ndarray)
    assert_close_per_row(reading.l2, np.array([1.0] * 3 + [100.0] * 3 + [0.0, 0.0]) / N, 1e-15)
    whole = least_squares(clone(model).set_params(alpha=4.0).fit(X[:N], X[:N]), X[:N], OPTIONS)
    assert isinstance(whole.l2, np.ndarray)
    assert_close_per_row(whole.l2, np.array([4.0] * 9 + [0.0] * 3) / N, 1e-15)


@given(
    alpha=st.floats(0.01, 1000),
    intercept=st.booleans(),
    rows=st.lists(st.integers(0, N - 1), min_size=1, max_size=12, unique=True),
)
@settings(max_examples=20)
def test_a_newton_step_is_scikit_learns_own_refit_without_the_rows(
    alpha: float, intercept: bool, rows: list[int]
):
    """R is quadratic, so that one step by the reduced Hessian arrives (B2): alpha stays, thus the total penalty."""
    y = TARGETS["number"]
    estimator = Ridge(alpha=alpha, fit_intercept=intercept, solver="cholesky")
    problem = from_estimator(clone(estimator).fit(X[:N], y[:N]), X[:N], y[:N])
    refit = clone(estimator).fit(np.delete(X[:N], rows, axis=0), np.delete(y[:N], rows))
    test = (X[N:], y[N:])
    newton = Influence(problem).of_removal([rows], test).newton
    assert newton is not None
    change = 0.5 * (refit.predict(X[N:]) - y[N:]) ** 2 - problem.evaluate(test).numpy()
    assert_close_per_row(newton.T, change[None], 1e-7)


def test_sparse_and_dense_inputs_are_the_same_problem():
    y = TARGETS["number"][:N]
    X_ = X[:N] * (np.abs(X[:N]) > 0.5)
    dense, given_sparse = (
        from_estimator(Ridge(solver="sparse_cg", tol=1e-14, alpha=2.0).fit(form, y), form, y)
        for form in (X_, sparse.csr_matrix(X_))
    )
    assert_close_per_row(given_sparse.theta, dense.theta, 1e-8)
    rows = draw(2, dense.p)
    assert_close_per_row(given_sparse.hessian.product()(rows), dense.hessian.product()(rows), 1e-12)


def test_coefficients_at_a_bound_are_refused():
    with pytest.raises(ValueError, match="positive=True"):
        fitted(LinearRegression(positive=True), "number")
    with pytest.raises(ValueError, match=r"positive=True is not supported: coefficients at the bound"):
        fitted(Ridge(positive=True), "number")


def test_the_predicted_effects_of_all_rows_point_where_refits_go():
    """First order and the leverage's correction (B1), which for least squares is exact row by row."""
    y, test = TARGETS["number"], (X[N:], TARGETS["number"][N:])
    problem = from_estimator(LinearRegression().fit(X[:N], y[:N]), X[:N], y[:N])
    found = Influence(problem).of_removal([[i] for i in range(N)], test)
    refits = [LinearRegression().fit(np.delete(X[:N], i, axis=0), np.delete(y[:N], i)) for i in range(N)]
    loss = problem.evaluate(test).numpy()
    actual = np.array([0.5 * (refit.predict(X[N:]) - y[N:]) ** 2 - loss for refit in refits])
    assert found.newton is not None
    assert_close_per_row(found.newton.T, actual, 1e-8)
    correlation = np.corrcoef(found.first_order.flatten(), torch.from_numpy(actual.T).flatten())[0, 1]
    assert correlation > 0.95

"""Readings of regressions with other losses than squares: each at its optimum, with the notes that belong to it."""

from typing import Any

import numpy as np
import pytest
import torch
from sklearn.kernel_ridge import KernelRidge
from sklearn.linear_model import (
    HuberRegressor,
    LogisticRegression,
    QuantileRegressor,
    SGDRegressor,
    TweedieRegressor,
)
from sklearn.metrics.pairwise import rbf_kernel
from sklearn.multiclass import OneVsRestClassifier
from sklearn.svm import SVR, LinearSVR

from tests.support.compare import assert_close_per_row
from tests.support.estimators import TARGETS, TIGHT, N, X, fitted, name
from tests.support.refits import one_contribution
from upweight import Huber, Influence, SmoothEpsilonInsensitive, SmoothPinball, from_estimator, verify

SPREAD = float(np.std(TARGETS["number"][:N]))


@pytest.mark.parametrize(
    ("estimator", "note"),
    [
        (HuberRegressor(alpha=0.1, tol=1e-10, max_iter=10**5), "the scale sigma="),
    ],
    ids=name,
)
def test_at_the_optimum_with_what_was_fitted_beside_it_held(estimator, note: str):
    problem = fitted(estimator, "number")
    assert float(problem.gradient().norm()) < 1e-2 * one_contribution(problem)
    assert any(said.startswith(note) for said in problem.terms.notes)


def test_the_scale_of_huber_is_its_tube():
    model = HuberRegressor(alpha=0.1, epsilon=1.5).fit(X[:N], TARGETS["number"][:N])
    problem = from_estimator(model, X[:N], TARGETS["number"][:N])
    assert problem.loss == Huber(1.5 * float(model.scale_), 1.5)


MACHINES: list[Any] = [
    (SVR(C=2.0, epsilon=0.2, kernel="linear", tol=1e-9), SmoothEpsilonInsensitive(0.2, 0.01 * SPREAD)),
    (SVR(C=2.0, epsilon=0.2, tol=1e-9), SmoothEpsilonInsensitive(0.2, 0.01 * SPREAD)),
    (
        LinearSVR(C=2.0, epsilon=0.2, tol=1e-8, max_iter=10**6, random_state=0),
        SmoothEpsilonInsensitive(0.2, 0.01 * SPREAD),
    ),
    (QuantileRegressor(alpha=0.0, quantile=0.3), SmoothPinball(0.3, 0.01 * SPREAD)),
    (QuantileRegressor(alpha=0.1), SmoothPinball(0.5, 0.01 * SPREAD)),
]


@pytest.mark.parametrize(("estimator", "loss"), MACHINES, ids=name)
def test_losses_with_corners_are_smoothed_near_their_optimum(estimator, loss):
    problem = fitted(estimator, "number", smoothing=0.01)
    assert problem.loss == loss
    assert "smoothed with temperature" in " ".join(problem.terms.notes)
    model = estimator.fit(X[:N], TARGETS["number"][:N])
    eta = problem.outputs(problem.prepared((X[N:], TARGETS["number"][N:]))[0])[:, 0]
    assert_close_per_row(eta[:, None], model.predict(X[N:])[:, None], 1e-4)
    # A polished one is at the optimum of the smoothed loss, and no farther from the true one than smoothing takes it.
    polished = fitted(estimator, "number", smoothing=0.01, polish=True)
    assert polished.value() <= problem.value()
    assert problem.value() - polished.value() < 0.05 * SPREAD


def test_a_kernel_of_ones_own_is_that_of_the_name():
    y = TARGETS["number"][:N]
    named = KernelRidge(alpha=2.0, kernel="rbf", gamma=0.3).fit(X[:N], y)
    given = KernelRidge(alpha=2.0, kernel="precomputed").fit(rbf_kernel(X[:N], gamma=0.3), y)
    own = from_estimator(named, X[:N], y)
    other = from_estimator(given, rbf_kernel(X[:N], gamma=0.3), y)
    test = rbf_kernel(X[N:], X[:N], gamma=0.3), TARGETS["number"][N:]
    assert_close_per_row(own.evaluate((X[N:], test[1]))[:, None], other.evaluate(test)[:, None], 1e-6)
    few = from_estimator(named, X[:N], y, rank=30)
    assert few.d == 30
    assert "rank=30 changes predictions" in few.terms.notes[-1]


@pytest.mark.parametrize(("estimator", "task", "words"), [
    (TweedieRegressor(power=3, alpha=0.1), "amounts", "not convex; use a power of 1 to 2"),
    (SGDRegressor(penalty="l1"), "number", "an l1 penalty.*or ElasticNet"),
    (SGDRegressor(early_stopping=True), "number", "use early_stopping=False"),
    (OneVsRestClassifier(LogisticRegression(class_weight="balanced")), "three", "weighs each model's own two"),
    (
        OneVsRestClassifier(LogisticRegression(C=0.3, solver="liblinear", l1_ratio=1, **TIGHT)),
        "three",
        "columns of its own; use l2",
    ),
])  # fmt: skip
def test_settings_that_are_refused(estimator, task: str, words: str):
    model = estimator.fit(X[:N], TARGETS[task][:N])
    with pytest.raises(ValueError, match=words):
        from_estimator(model, X[:N], TARGETS[task][:N])


def test_other_rows_are_refused():
    ridge = KernelRidge(kernel="rbf").fit(X[:N], TARGETS["number"][:N])
    with pytest.raises(ValueError, match="X has 59 examples, the KernelRidge was fitted on 60"):
        from_estimator(ridge, X[: N - 1], TARGETS["number"][: N - 1])
    with pytest.raises(ValueError, match="X is not what the KernelRidge was fitted on"):
        from_estimator(ridge, X[1 : N + 1], TARGETS["number"][1 : N + 1])


@pytest.mark.parametrize("weighted", [False, True])
def test_the_scale_of_a_huber_regression_is_fitted_anew(weighted):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, 3))
    y = x @ [1.0, -2.0, 0.5] + 0.3 * rng.standard_t(2, 60)
    weights = rng.integers(1, 4, 60).astype(float) if weighted else None
    model = HuberRegressor(epsilon=1.2, alpha=0.5, tol=1e-10, max_iter=100_000).fit(
        x, y, sample_weight=weights
    )
    problem, test = from_estimator(model, x, y, sample_weight=weights), (x[:8], y[:8])
    assert problem.loss.fits_scale
    refit, base, everything = problem.cache["own estimator"], problem.evaluate(test), torch.arange(60)
    far = int(np.abs(y - model.predict(x)).argmax())
    sets = [torch.tensor([0]), torch.tensor([far]), torch.arange(10, 20)]
    own = [refit(everything[~torch.isin(everything, rows)]) for rows in sets]
    actual = torch.stack([there.evaluate(test) - base for there in own])
    again = [problem.without(rows).minimised() for rows in sets]
    assert_close_per_row(
        torch.stack([one.theta for one in again]), torch.stack([one.theta for one in own]), 1e-3
    )
    assert isinstance(problem.loss, Huber)
    held = problem.with_loss(Huber(problem.loss.delta)).without(sets[1]).minimised()
    assert float((held.theta - own[1].theta).norm()) > 5 * float((again[1].theta - own[1].theta).norm())
    left = problem.gradients_without(sets, torch.stack([one.theta for one in again]))
    assert float(left.norm(dim=1).max()) < 1e-6
    each = Influence(problem).of_each_removal(test).effect()
    assert_close_per_row(each[:, [0, far]].T, actual[:2], 0.02)
    found = verify(Influence(problem), test, k=3, random=2)
    assert found.top.relative_error < 0.02
    assert found.estimator is not None
    assert found.estimator < 0.02

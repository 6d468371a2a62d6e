"""Machines with corners: what is shown are refits of their own. NuSVC and NuSVR: C machines with the C or epsilon that
nu led to."""

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.datasets import load_breast_cancer, load_diabetes, load_wine
from sklearn.linear_model import QuantileRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC, SVR, LinearSVC, LinearSVR, NuSVC, NuSVR

from tests.support.compare import assert_close_per_row
from upweight import Influence, SmoothHinge, from_estimator, verify
from upweight.losses import SmoothEpsilonInsensitive


def standardised(load, count: int, targets=None):
    X, y = load(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(X))[: count + 20]
    X = (X - X.mean(0)) / X.std(0)
    y = y if targets is None else targets(X, y)
    X, y = X[order], y[order]
    return (X[:count], y[:count]), (X[count:], y[count:])


def number(X, y):
    return (y - y.mean()) / y.std()


CLASSES = [
    (NuSVC(nu=0.3, tol=1e-9), load_breast_cancer, 80),
    (NuSVC(nu=0.2, tol=1e-9, kernel="linear"), load_wine, 90),
    (NuSVC(nu=0.4, tol=1e-9, break_ties=True), load_wine, 90),
]
VALUES = [
    (NuSVR(nu=0.3, C=0.5, tol=1e-9), load_diabetes, 80),
    (NuSVR(nu=0.7, kernel="linear", tol=1e-9), load_wine, 90),
]

LIBLINEAR = {"C": 0.1, "tol": 1e-9, "max_iter": 1_000_000}
CORNERS = [
    (SVC(C=0.1, kernel="linear", tol=1e-9), load_wine, 90, True),
    (SVC(gamma=0.05, tol=1e-9), load_breast_cancer, 80, True),
    (SVC(tol=1e-9), load_wine, 90, False),  # the width of its kernel follows the rows
    (SVC(gamma=0.05, tol=1e-9, class_weight="balanced"), load_breast_cancer, 80, False),
    (LinearSVC(loss="hinge", random_state=0, **LIBLINEAR), load_wine, 90, True),
    (SVR(gamma=0.05, tol=1e-9), load_diabetes, 80, True),
    (LinearSVR(epsilon=0.5, random_state=0, **LIBLINEAR), load_diabetes, 80, True),
    (QuantileRegressor(alpha=0.01), load_diabetes, 80, False),
]


def named(value: object) -> str:
    """What a case is called: an address in it would be another one in each process."""
    return getattr(value, "__name__", str(value))


@pytest.mark.parametrize(("estimator", "load", "count"), CLASSES, ids=named)
@pytest.mark.parametrize("weighted", [False, True])
def test_a_nu_machine_is_that_of_the_c_it_led_to(estimator, load, count, weighted):
    (X, y), test = standardised(load, count)
    w = np.random.default_rng(1).uniform(0.5, 2, count) if weighted else np.ones(count)
    model = clone(estimator).fit(X, y, sample_weight=w)
    problem = from_estimator(model, X, y, sample_weight=w if weighted else None)
    assert problem.loss == SmoothHinge(1e-3, pairs=problem.loss.pairs)
    labels, outputs = model.classes_, problem.outputs(problem.prepared(test)[0])
    pairs = [(a, b) for k, a in enumerate(labels) for b in labels[k + 1 :]]
    for k, pair in enumerate(pairs):
        own = np.isin(y, pair)
        C = 1 / (float(problem.l2[k * problem.d]) * count)
        settings = {"kernel": model.kernel, "tol": 1e-9, "gamma": model._gamma}
        same = SVC(C=C, **settings).fit(X[own], y[own], sample_weight=w[own]).decision_function(test[0])
        assert_close_per_row(outputs[:, k], same if len(pairs) == 1 else -same, 1e-4)


@pytest.mark.parametrize(("estimator", "load", "count"), VALUES, ids=named)
@pytest.mark.parametrize("weighted", [False, True])
def test_a_nu_regression_is_that_of_the_tube_it_led_to(estimator, load, count, weighted):
    (X, y), test = standardised(load, count, number)
    w = np.random.default_rng(1).uniform(0.5, 2, count) if weighted else np.ones(count)
    model = clone(estimator).fit(X, y, sample_weight=w)
    problem = from_estimator(model, X, y, sample_weight=w if weighted else None)
    assert isinstance(problem.loss, SmoothEpsilonInsensitive)
    settings = {"kernel": model.kernel, "tol": 1e-9, "gamma": model._gamma, "C": model.C}
    same = SVR(epsilon=problem.loss.epsilon, **settings).fit(X, y, sample_weight=w).predict(test[0])
    assert_close_per_row(problem.outputs(problem.prepared(test)[0])[:, 0], same, 1e-4)


@pytest.mark.parametrize(("estimator", "load", "count"), [*CLASSES, *VALUES], ids=named)
def test_what_is_shown_are_refits_of_the_estimator(estimator, load, count):
    (X, y), test = standardised(load, count, number if isinstance(estimator, NuSVR) else None)
    problem = from_estimator(clone(estimator).fit(X, y), X, y, smoothing=0.1)
    influence = Influence(problem)
    found = influence.of_each_removal(test)
    assert found.left is not None
    assert float(found.left.max()) == 0
    rows, base = list(range(0, count, 16)), problem.evaluate(test)
    actual = []
    for gone in [*([i] for i in rows), [1, 2, 3]]:
        kept = np.delete(np.arange(count), gone)
        again = from_estimator(clone(estimator).fit(X[kept], y[kept]), X[kept], y[kept], smoothing=0.1)
        actual.append(again.with_loss(problem.loss).evaluate(test) - base)
    assert_close_per_row(found.effect()[:, rows].T, torch.stack(actual[:-1]), 1e-6)
    together = influence.of_removal({"three": [1, 2, 3]}, test)
    assert together.newton is not None
    assert_close_per_row(together.newton.T, actual[-1][None], 1e-6)
    verified = verify(influence, test, k=3, random=2)
    assert verified.top.relative_error < 1e-6
    assert "is held fixed by derivatives" in "\n".join(problem.terms.notes)


def test_nu_machines_that_are_refused_or_have_no_refit():
    (X, y), test = standardised(load_breast_cancer, 60)
    with pytest.raises(ValueError, match="trains as if class_weight were None"):
        from_estimator(NuSVC(class_weight="balanced").fit(X, y), X, y)
    plain, weighed = (NuSVC(nu=0.3, class_weight=w).fit(X, y).decision_function(X) for w in (None, {0: 5.0}))
    assert (plain == weighed).all()  # if this fails, scikit-learn looks at class weights now
    fewest = min((y == 0).sum(), (y == 1).sum())
    nu = 2 * (fewest - 0.3) / len(y)  # without a row of the rarer class it cannot be met
    model = NuSVC(nu=nu).fit(X, y)
    row = int(np.flatnonzero(y == (0 if (y == 0).sum() == fewest else 1))[0])
    found = Influence(from_estimator(model, X, y)).of_each_removal(test)
    assert bool(found.effect()[:, row].isnan().all())
    common = int(np.flatnonzero(y != y[row])[0])
    assert bool(found.effect()[:, common].isfinite().all())


@pytest.mark.parametrize(("estimator", "load", "count", "sees_some"), CORNERS, ids=named)
def test_where_a_loss_has_corners_what_is_shown_are_refits(estimator, load, count, sees_some):
    numbers = load is load_diabetes
    (X, y), test = standardised(load, count, number if numbers else None)
    problem = from_estimator(clone(estimator).fit(X, y), X, y, smoothing=0.1)
    found = Influence(problem).of_each_removal(test)
    still = (found.effect() == 0).all(0)
    assert bool(still.any()) or not sees_some
    rows, base = [*range(0, count, 8), *still.nonzero()[:2, 0].tolist()], problem.evaluate(test)
    actual = []
    for i in rows:
        own, there = np.delete(X, i, 0), np.delete(y, i)
        again = from_estimator(clone(estimator).fit(own, there), own, there, smoothing=0.1)
        actual.append(again.with_loss(problem.loss).evaluate(test) - base)
    effects = found.effect()[:, rows]
    torch.testing.assert_close(effects, torch.stack(actual, 1), rtol=1e-4, atol=1e-5)
    assert "the loss has corners" in "\n".join(problem.terms.notes)


def test_in_a_pipeline_every_row_moves_the_scaler_and_is_refitted():
    X, y = load_breast_cancer(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(X))
    test, X, y = (X[order[80:100]], y[order[80:100]]), X[order[:80]], y[order[:80]]
    pipeline = make_pipeline(StandardScaler(), SVC(gamma=0.02, tol=1e-9))
    problem = from_estimator(clone(pipeline).fit(X, y), X, y, smoothing=0.1)
    found, base = Influence(problem).of_each_removal(test), problem.evaluate(test)
    vectors = clone(pipeline).fit(X, y)[-1].support_
    rows = [*vectors[:2].tolist(), *np.setdiff1d(np.arange(80), vectors)[:2].tolist()]
    for i in rows:
        own, there = np.delete(X, i, 0), np.delete(y, i)
        again = from_estimator(clone(pipeline).fit(own, there), own, there, smoothing=0.1)
        actual = again.with_loss(problem.loss).evaluate(test) - base
        assert_close_per_row(found.effect()[:, i][None], actual[None], 1e-6)

"""Readings of logistic regression and of classifiers by stochastic gradients: their objective, term by term."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression, SGDClassifier

from tests.support.cases import draw
from tests.support.compare import assert_close_per_row
from tests.support.estimators import SGD, TARGETS, TIGHT, N, X, fitted, name
from upweight import (
    Logistic,
    ModifiedHuber,
    SmoothHinge,
    Softmax,
    SquaredHinge,
    SquaredMargin,
    from_estimator,
)
from upweight.estimators.logistic import logistic_regression, sgd
from upweight.estimators.reading import Options

OPTIONS = Options(smoothing=0.02, rank=None)


@pytest.mark.parametrize(("estimator", "words"), [
    (LogisticRegression(solver="saga", l1_ratio=1, C=0.1, max_iter=10_000), "an l1 penalty.*use the l2"),
    (LogisticRegression(solver="saga", l1_ratio=0.5, C=0.1, max_iter=10_000), "an elasticnet penalty"),
    (SGDClassifier(penalty="l1"), "an l1 penalty"),
    (SGDClassifier("perceptron"), "use one of hinge, squared_hinge, log_loss, modified_huber, squared_error"),
    (SGDClassifier(early_stopping=True), "early_stopping=True trains on a part"),
])  # fmt: skip
def test_settings_that_are_refused(estimator, words: str):
    with pytest.raises(ValueError, match=words):
        from_estimator(estimator.fit(X[:N], TARGETS["three"][:N]), X[:N], TARGETS["three"][:N])


# (estimator, targets, loss, whether all classes share one loss)
READ: list[Any] = [
    (LogisticRegression(C=0.2, **TIGHT), "two", Logistic()),
    (LogisticRegression(C=0.2, **TIGHT), "three", Softmax()),
    (LogisticRegression(C=0.2, fit_intercept=False, **TIGHT), "three", Softmax()),
    (LogisticRegression(C=0.2, solver="liblinear", intercept_scaling=4.0, **TIGHT), "two", Logistic()),
    (LogisticRegression(C=0.2, solver="liblinear", fit_intercept=False, **TIGHT), "two", Logistic()),
    (LogisticRegression(C=np.inf, **TIGHT), "three", Softmax()),
]


def log_losses(eta: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The logistic loss of two classes, the cross-entropy of several; y are class numbers."""
    if eta.shape[1] == 1:
        return np.log1p(np.exp(-np.where(y > 0, 1, -1) * eta[:, 0]))
    return np.log(np.exp(eta).sum(1)) - eta[np.arange(len(eta)), y]


@pytest.mark.parametrize(("estimator", "task", "loss"), READ, ids=name)
def test_the_objective_is_scikit_learns_but_for_a_factor(estimator, task: str, loss):
    """C times the sum of losses + 1/2 ||coef||^2, which is C n R: at all parameters, not at the optimum alone."""
    problem = fitted(estimator, task)
    assert problem.loss == loss
    assert problem.keep == "total"
    codes = np.unique(TARGETS[task][:N], return_inverse=True)[1]
    C, c = estimator.C, problem.c
    for seed in range(3):
        theta = draw(problem.p, seed=seed)
        coef = theta[: 3 * c].view(c, 3).numpy()
        intercept = theta[3 * c :].numpy() if estimator.fit_intercept else np.zeros(c)
        losses = log_losses(X[:N] @ coef.T + intercept, codes).sum()
        found = problem.at(theta).value()
        if np.isinf(C):
            assert found == pytest.approx(losses / N, rel=1e-12)
            continue
        size = (coef**2).sum()
        if estimator.solver == "liblinear":  # its constant column has a weight like all others
            size += ((intercept / estimator.intercept_scaling) ** 2).sum()
        assert found * C * N == pytest.approx(C * losses + size / 2, rel=1e-12)


@pytest.mark.parametrize(
    ("loss", "wanted"),
    [
        ("log_loss", Logistic()),
        ("hinge", SmoothHinge(0.02)),
        ("squared_hinge", SquaredHinge()),
        ("modified_huber", ModifiedHuber()),
        ("squared_error", SquaredMargin()),
    ],
)
@pytest.mark.parametrize("penalty", ["l2", None])
def test_stochastic_gradients_minimise_the_mean(loss: str, wanted, penalty: str | None):
    model = SGDClassifier(loss, penalty=penalty, **SGD).fit(X[:N], TARGETS["three"][:N])
    reading = sgd(model, X[:N], OPTIONS)
    assert reading.loss == wanted
    assert (reading.keep, reading.l2_intercept, reading.counts_weights) == ("mean", 0.0, False)
    assert reading.l2 == (0.3 if penalty else 0.0)
    assert_close_per_row(reading.coef, model.coef_, 1e-15)


def test_a_whole_number_of_alpha_is_a_number():
    model = SGDClassifier("log_loss", **{**SGD, "alpha": 1}).fit(X[:N], TARGETS["two"][:N])
    assert sgd(model, X[:N], OPTIONS).l2 == 1.0


def older(**settings: Any) -> SimpleNamespace:
    """A fitted LogisticRegression as scikit-learn up to 1.7 leaves it: with `penalty` and `multi_class`."""
    plain = {"C": 0.5, "solver": "lbfgs", "penalty": "l2", "l1_ratio": None, "multi_class": "auto"}
    rows = settings.pop("rows", 1)
    fitted = {"coef_": np.ones((rows, 3)), "intercept_": np.ones(rows), "fit_intercept": True}
    return SimpleNamespace(**{**plain, **fitted, **settings})


def test_settings_of_older_versions_are_read():
    assert logistic_regression(older(), X[:N], OPTIONS).l2 == 1 / (0.5 * N)
    for none in ("none", None):
        assert logistic_regression(older(penalty=none), X[:N], OPTIONS).l2 == 0.0
    assert logistic_regression(older(rows=3), X[:N], OPTIONS).loss == Softmax()
    assert logistic_regression(older(rows=3, multi_class="ovr"), X[:N], OPTIONS).loss == Logistic()
    separate = logistic_regression(older(rows=3, solver="liblinear", intercept_scaling=2.0), X[:N], OPTIONS)
    assert separate.loss == Logistic()
    assert separate.l2_intercept == 1 / (0.5 * N) / 4
    with pytest.raises(ValueError, match=r"penalises its coefficients twice; leave multi_class out"):
        logistic_regression(older(multi_class="multinomial"), X[:N], OPTIONS)
    ignored = older(multi_class="multinomial", solver="liblinear", intercept_scaling=1.0)
    assert logistic_regression(ignored, X[:N], OPTIONS).loss == Logistic()
    for name_, ratio in (("l1", None), ("elasticnet", 0.5)):
        reading = logistic_regression(older(penalty=name_, l1_ratio=ratio), X[:N], OPTIONS)
        share = 1.0 if ratio is None else ratio
        assert reading.slope is not None
        assert reading.slope.tolist() == [share / (0.5 * N)] * 3 + [0.0]
        assert reading.l2 == (1 - share) / (0.5 * N)
    # An elastic net without any l1 is the l2 penalty.
    assert logistic_regression(older(penalty="elasticnet", l1_ratio=0.0), X[:N], OPTIONS).l2 == 1 / (0.5 * N)


@pytest.mark.parametrize("wanted", [Logistic(), Softmax()])
@pytest.mark.parametrize("named", [False, True])
def test_newton_cholesky_is_read_by_its_probabilities(wanted, named: bool):
    """One against the rest in scikit-learn 1.4 and 1.5, softmax since 1.6, under the same settings."""
    model = LogisticRegression(solver="newton-cholesky").fit(X[:N], TARGETS["three"][:N])

    def predict_proba(rows: Any) -> np.ndarray:
        eta = np.asarray(rows) @ model.coef_.T + model.intercept_
        raw = 1 / (1 + np.exp(-eta)) if wanted == Logistic() else np.exp(eta)
        assert list(getattr(rows, "columns", "abc")) == list("abc")
        return raw / raw.sum(1, keepdims=True)

    names = {"feature_names_in_": np.array(list("abc"))} if named else {}
    old = older(
        rows=3,
        solver="newton-cholesky",
        coef_=model.coef_,
        intercept_=model.intercept_,
        predict_proba=predict_proba,
        **names,
    )
    assert logistic_regression(old, X[:N], OPTIONS).loss == wanted


def test_several_classes_by_stochastic_gradients_are_separate_models():
    estimator = SGDClassifier("log_loss", **SGD)
    problem = fitted(estimator, "three")
    eta = torch.from_numpy(X[:N] @ problem.params["weight"].numpy().T) + problem.params["bias"]
    codes = np.unique(TARGETS["three"][:N], return_inverse=True)[1]
    each = [log_losses(eta[:, [k]].numpy(), codes == k).sum() for k in range(3)]
    size = float(problem.params["weight"].square().sum())
    assert problem.value() == pytest.approx(sum(each) / N + 0.3 / 2 * size, rel=1e-12)

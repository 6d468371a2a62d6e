"""The library's measures asked of estimators: the values of the user's own model, and what its refits do to them."""

from typing import Any

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression, Ridge, SGDClassifier
from sklearn.svm import SVC, LinearSVC

import upweight as uw
from tests.support.compare import assert_close_per_row
from tests.support.estimators import SGD, TARGETS, TIGHT, N, X
from upweight.measures import logit, margin, probability

PROBABLE = [
    (LogisticRegression(C=0.3, **TIGHT), "two"),
    (LogisticRegression(C=0.3, solver="liblinear", **TIGHT), "two"),
    (LogisticRegression(C=0.3, **TIGHT), "three"),
    (SGDClassifier("log_loss", **SGD), "two"),
    (SGDClassifier("log_loss", **SGD), "three"),
]


@pytest.mark.parametrize(("estimator", "task"), PROBABLE, ids=str)
def test_probabilities_are_the_estimators_own_for_every_class(estimator: Any, task: str) -> None:
    model = clone(estimator).fit(X[:N], TARGETS[task][:N])
    influence = uw.Influence(uw.from_estimator(model, X[:N], TARGETS[task][:N]))
    for k, label in enumerate(model.classes_):
        test = X[N:], np.repeat(label, 8)
        wanted = model.predict_proba(X[N:])[:, k]
        assert_close_per_row(influence.problem.evaluate(test, probability)[None], wanted[None], 1e-12)
        predicted = influence.of_removal([[i] for i in range(10)], test, measure=probability).newton
        assert predicted is not None
        if isinstance(estimator, LogisticRegression):
            every = np.arange(N)
            kept = [np.delete(every, i) for i in range(10)]
            refits = [clone(estimator).fit(X[rows], TARGETS[task][rows]) for rows in kept]
            actual = np.stack([m.predict_proba(X[N:])[:, k] for m in refits], 1) - wanted[:, None]
            assert_close_per_row(predicted, actual, 0.05)


@pytest.mark.parametrize("measure", [logit, margin])
@pytest.mark.parametrize("estimator", [LogisticRegression(C=0.3, **TIGHT), LinearSVC(C=0.1, **TIGHT)])
def test_margins_of_two_classes_have_the_sign_of_the_class(estimator: Any, measure: Any) -> None:
    y = TARGETS["two"][:N]
    model = clone(estimator).fit(X[:N], y)
    influence = uw.Influence(uw.from_estimator(model, X[:N], y))
    for label, sign in (("no", -1), ("yes", 1)):
        test = X[N:], np.repeat(label, 8)
        wanted = sign * model.decision_function(X[N:])
        assert_close_per_row(influence.problem.evaluate(test, measure)[None], wanted[None], 1e-12)
        predicted = influence.of_removal([[i] for i in range(10)], test, measure=measure).newton
        assert predicted is not None
        refits = [clone(estimator).fit(np.delete(X[:N], i, 0), np.delete(y, i)) for i in range(10)]
        actual = np.stack([sign * m.decision_function(X[N:]) for m in refits], 1) - wanted[:, None]
        assert_close_per_row(predicted, actual, 0.05)


def test_models_without_classes_or_probabilities_are_told_apart() -> None:
    ridge = uw.from_estimator(Ridge().fit(X[:N], TARGETS["number"][:N]), X[:N], TARGETS["number"][:N])
    for measure in (logit, probability, margin):
        with pytest.raises(
            ValueError, match=f"{measure.__name__} is about classes, and the targets of this model"
        ):
            uw.Influence(ridge).on_loss((X[N:], TARGETS["number"][N:]), measure=measure)
    svc = uw.from_estimator(SVC(tol=1e-8).fit(X[:N], TARGETS["two"][:N]), X[:N], TARGETS["two"][:N])
    with pytest.raises(
        ValueError, match=r"trained with SmoothHinge gives no probabilities: ask about measures\.margin"
    ):
        uw.Influence(svc).on_loss((X[N:], TARGETS["two"][N:]), measure=probability)
    plain = uw.LinearProblem(X[:N], TARGETS["two"][:N] == "yes", np.zeros(3), loss=uw.Logistic(), l2=0.1)
    with pytest.raises(ValueError, match="binary targets must be 0/1 or -1/"):
        plain.evaluate((torch.zeros(1, 3), torch.tensor([2])), probability)


def test_networks_of_one_output_have_both_classes() -> None:
    """The right sign and value for both classes, from outputs (b, 1) or (b,), held against central differences."""
    torch.manual_seed(0)
    x, y = torch.randn(20, 3).double(), (torch.rand(20) > 0.5).double()
    for flat in (False, True):
        layers = [torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 1)]
        model = torch.nn.Sequential(*layers, *([torch.nn.Flatten(0)] if flat else [])).double()
        targets = y if flat else y[:, None]
        loss = torch.nn.functional.binary_cross_entropy_with_logits
        problem = uw.Problem(model, loss, (x, targets), l2=0.1)
        p = torch.sigmoid(model(x).flatten()).detach()
        wanted = torch.where(y == 1, p, 1 - p)
        assert_close_per_row(problem.evaluate((x, targets), probability)[None], wanted[None], 1e-12)
        gradients = problem.test_gradients((x[:4], targets[:4]), probability)
        for j in (0, 7, 15):
            step = torch.zeros(problem.p).double()
            step[j] = 1e-6
            values = [
                problem.evaluate((x[:4], targets[:4]), probability, problem.theta + s * step) for s in (1, -1)
            ]
            naive = (values[0] - values[1]) / 2e-6
            assert torch.allclose(gradients[:, j], naive, rtol=1e-5, atol=1e-9)

"""Several models side by side: pairs of classes, labels and numbers of each column; refits of the user's estimator."""

from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn import config_context
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression, Ridge, RidgeClassifier, SGDClassifier
from sklearn.multiclass import OneVsOneClassifier, OneVsRestClassifier
from sklearn.multioutput import MultiOutputClassifier, MultiOutputRegressor
from sklearn.naive_bayes import GaussianNB
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC, LinearSVC

from tests.support.compare import assert_close_per_row
from upweight import Influence, explain, from_estimator, measures, mislabeled, verify
from upweight.uses.said import said_of

N, TESTS = 80, 10
TIGHT: dict[str, Any] = {"tol": 1e-12, "max_iter": 100_000}
LOGISTIC = LogisticRegression(C=0.3, solver="newton-cholesky", **TIGHT)


def data(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows and four classes that overlap, of which one is rare."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(N + TESTS, 3))
    side = X[:, :2] + 0.8 * rng.normal(size=(N + TESTS, 2)) > [0, 0.6]
    return X, np.array(["a", "b", "c", "d"])[side @ [1, 2]]


def labels(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows with two labels in words."""
    X, _ = data(seed)
    noise = np.random.default_rng(seed + 50).normal(size=X.shape)
    words = np.where(X[:, 0] + noise[:, 0] > 0.4, "yes", "no")
    return X, np.stack([words, np.where(X[:, 1] + noise[:, 1] > 0, "warm", "cold")], axis=1)


def plain_loss(inner: Any, decisions: np.ndarray, signs: np.ndarray) -> np.ndarray:
    """The losses of signs at the decisions of a model of two classes."""
    margin = signs * decisions
    if isinstance(inner, RidgeClassifier):
        return (1 - margin) ** 2 / 2
    return (
        np.log1p(np.exp(-margin)) if isinstance(inner, LogisticRegression) else np.maximum(0, 1 - margin) ** 2
    )


def by_pairs(model: Any, X: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The loss of each row over the models of its own class, as scikit-learn fitted them."""
    total = np.zeros(len(X))
    for one, (i, j) in zip(model.estimators_, combinations(model.classes_, 2), strict=True):
        signs = np.where(y == j, 1.0, -1.0)
        total += np.isin(y, [i, j]) * plain_loss(one, one.decision_function(X), signs)
    return total


def by_columns(model: Any, X: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The sum over the columns of y of each row's loss, as scikit-learn fitted their models."""
    total = np.zeros(len(X))
    for k, one in enumerate(model.estimators_):
        total += plain_loss(one, one.decision_function(X), np.where(y[:, k] == one.classes_[1], 1.0, -1.0))
    return total


def judged(estimator: Any, data: Any, loss: Any, accuracy: float) -> Any:
    """The problem, whose removals were compared with refits: rows, a set, groups."""
    X, y = data
    test, (X, y) = (X[N:], y[N:]), (X[:N], y[:N])
    model = clone(estimator).fit(X, y)
    problem = from_estimator(model, X, y)
    influence = Influence(problem)
    assert_close_per_row(problem.evaluate(test)[None], loss(model, *test)[None], 1e-9)

    def change(rows: Any) -> np.ndarray:
        left = clone(estimator).fit(np.delete(X, rows, axis=0), np.delete(y, rows, axis=0))
        return loss(left, *test) - loss(model, *test)

    some = list(range(0, N, 9))
    found = influence.of_each_removal(test).effect()[:, some].T
    assert_close_per_row(found, np.stack([change(i) for i in some]), accuracy)
    sets = {"five": list(range(5)), "ten": list(range(30, 40))}
    found = influence.of_removal(sets, test).best.T
    assert_close_per_row(found, np.stack([change(rows) for rows in sets.values()]), accuracy)
    return problem


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize(
    ("inner", "accuracy"),
    [(LOGISTIC, 2e-3), (LinearSVC(C=0.1, dual=False, **TIGHT), 5e-3), (RidgeClassifier(alpha=3.0), 1e-8)],
    ids=["logistic", "squared hinge", "ridge"],
)
def test_pairs_are_refits_of_the_estimator(inner: Any, accuracy: float, seed: int):
    X, y = data(seed)
    problem = judged(OneVsOneClassifier(inner), (X, y), by_pairs, accuracy)
    model = OneVsOneClassifier(inner).fit(X[:N], y[:N])
    outputs = problem.outputs(problem.prepared((X, y))[0])
    votes = problem.loss.by_class(outputs)
    assert_close_per_row(votes, model.decision_function(X), 1e-9)
    assert (np.array(problem.classes)[votes.argmax(1).numpy()] == model.predict(X)).all()
    assert float(problem.evaluate((X, y), measures.accuracy)) == pytest.approx(model.score(X, y))
    assert any("votes decide" in note for note in problem.terms.notes)
    for i, (one, two) in zip((0, 7), (("a", "b"), ("c", "d")), strict=True):
        k = list(combinations("abcd", 2)).index((one, two))
        moved = Influence(problem).on_loss((X[N:], y[N:]), measure=lambda outputs, y, k=k: outputs[:, k])
        assert bool(moved.values[:, i].abs().max() > 1e-6) == (y[i] in (one, two))


def test_two_classes_have_a_single_pair():
    X, y = data(3)
    y = np.where(y == "a", "no", "yes")
    inner = clone(LOGISTIC).fit(X, y)
    alone, pairs = (
        Influence(from_estimator(model.fit(X, y), X, y)).on_loss((X[:5], y[:5])).values
        for model in (inner, OneVsOneClassifier(LOGISTIC))
    )
    assert_close_per_row(pairs, alone, 1e-9)


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize(
    ("inner", "accuracy"), [(LOGISTIC, 2e-3), (RidgeClassifier(alpha=3.0), 1e-8)], ids=["logistic", "ridge"]
)
def test_labels_of_columns_are_refits_of_the_estimator(inner: Any, accuracy: float, seed: int):
    problem = judged(MultiOutputClassifier(inner), labels(seed), by_columns, accuracy)
    assert problem.c == 2
    X, y = labels(seed)
    indicators = np.stack([y[:, 0] == "yes", y[:, 1] == "warm"], axis=1).astype(int)
    rest = judged(OneVsRestClassifier(inner), (X, indicators), by_columns, accuracy)
    assert_close_per_row(rest.theta[None], problem.theta[None], 1e-8)


@pytest.mark.parametrize("seed", range(2))
def test_numbers_of_columns_are_refits_of_the_estimator(seed: int):
    X, _ = data(seed)
    y = X @ np.random.default_rng(seed).normal(size=(3, 2)) + np.random.default_rng(9).normal(
        size=(len(X), 2)
    )
    judged(
        MultiOutputRegressor(Ridge(alpha=2.0)),
        (X, y),
        lambda model, X, y: np.square(model.predict(X) - y).sum(1) / 2,
        1e-9,
    )


def test_what_is_shown_of_them():
    X, y = labels(5)
    frame = pd.DataFrame(X, columns=["age", "income", "rate"], index=[f"row {i}" for i in range(len(X))])
    model = make_pipeline(StandardScaler(), MultiOutputClassifier(LOGISTIC)).fit(frame[:N], y[:N])
    influence = Influence(from_estimator(model, frame[:N], y[:N]))
    test = frame[N : N + 1], y[N : N + 1]
    assert str(explain(influence, test, k=2)).startswith("The loss is")
    assert said_of(influence.problem, test).prediction is None
    assert mislabeled(influence).table.index[0].startswith("row ")
    assert verify(influence, test, k=5).top.relative_error < 0.01
    _, named = data(5)
    pairs = OneVsOneClassifier(LOGISTIC).fit(X[:N], named[:N])
    influence = Influence(from_estimator(pairs, X[:N], named[:N]))
    found = explain(influence, (X[N : N + 1], named[N : N + 1]), k=2)
    assert found.prediction == pairs.predict(X[N : N + 1])[0]
    checked = verify(influence, (X[N:], named[N:]), k=5)
    assert checked.top.relative_error < 0.01
    assert checked.estimator is not None
    assert checked.estimator < 0.01


@pytest.mark.parametrize(
    ("estimator", "words"),
    [
        (OneVsOneClassifier(SVC()), "fit an SVC by itself"),
        (
            OneVsOneClassifier(SGDClassifier("log_loss")),
            "penalty is on the mean loss.*use LogisticRegression",
        ),
        (OneVsOneClassifier(LogisticRegression(class_weight="balanced")), "fit without it"),
        (OneVsOneClassifier(LogisticRegression(l1_ratio=1, solver="saga", max_iter=1000)), "use l2"),
    ],
    ids=["kernel", "mean", "class_weight", "l1"],
)
def test_pairs_that_are_refused(estimator: Any, words: str):
    X, y = data(0)
    with pytest.raises(ValueError, match=words):
        from_estimator(estimator.fit(X, y), X, y)


def test_columns_that_are_refused():
    X, y = data(0)
    many = np.stack([y == "a", np.searchsorted(["a", "b", "c", "d"], y)], axis=1).astype(int)
    with pytest.raises(
        ValueError, match=r"more than two classes \(in column 1 of y\).*pass each of its estimators_"
    ):
        from_estimator(MultiOutputClassifier(LOGISTIC).fit(X, many), X, many)
    with pytest.raises(ValueError, match=r"single column is not supported: pass its estimators_\[0\]"):
        from_estimator(MultiOutputClassifier(LOGISTIC).fit(X, many[:, :1]), X, many[:, :1])
    X, y = labels(0)
    with pytest.raises(TypeError, match="inside another estimator"):
        from_estimator(MultiOutputClassifier(GaussianNB()).fit(X, y), X, y)
    model = MultiOutputClassifier(LOGISTIC).fit(X, y)
    problem = from_estimator(model, X, y)
    with pytest.raises(ValueError, match="2 columns"):
        problem.evaluate((X[:3], y[:3, :1]))
    unseen = y[:3].astype(object)
    unseen[1, 0] = "perhaps"
    with pytest.raises(ValueError, match=r"labels that the estimator was not fitted on.*perhaps"):
        problem.evaluate((X[:3], unseen))
    with pytest.raises(ValueError, match="takes no sample_weight"):
        from_estimator(OneVsOneClassifier(LOGISTIC).fit(*data(0)), *data(0), sample_weight=np.ones(N + TESTS))
    assert torch.equal(problem.y[:, 0] > 0, torch.from_numpy(y[:, 0] == "yes"))


def test_weights_that_are_handed_on_to_the_models_of_pairs_are_those_of_their_own_refits():
    rng, n = np.random.default_rng(0), 60
    X = rng.normal(size=(n, 3))
    y, w = (X[:, 0] + rng.normal(size=n) > 0) * 1 + (X[:, 1] > 0.3), rng.uniform(0.5, 3, n)
    inner = LogisticRegression(C=0.5, tol=1e-12, solver="newton-cholesky")
    with config_context(enable_metadata_routing=True):
        estimator = OneVsOneClassifier(inner.set_fit_request(sample_weight=True))
        problem = from_estimator(clone(estimator).fit(X, y, sample_weight=w), X, y, sample_weight=w)
        test = X[:3], y[:3]
        found = Influence(problem).of_each_removal(test).effect()
        for i in (3, 20):
            left = [np.delete(part, i, 0) for part in (X, y, w)]
            again = clone(estimator).fit(*left[:2], sample_weight=left[2])
            there = from_estimator(again, *left[:2], sample_weight=left[2])
            change = there.evaluate(test) - problem.evaluate(test)
            assert_close_per_row(found[:, i][None], change[None], 1e-3)

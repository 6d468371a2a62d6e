"""Discriminant analysis and naive Bayes: removals are their own refits without the rows, to rounding."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.covariance import OAS
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis, QuadraticDiscriminantAnalysis
from sklearn.multiclass import OneVsRestClassifier
from sklearn.naive_bayes import GaussianNB
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from tests.support.compare import assert_close_per_row
from upweight import (
    DerivativeError,
    Influence,
    Overall,
    diagnostics,
    explain,
    flip_set,
    from_estimator,
    measures,
    mislabeled,
    verify,
)

N, TESTS = 90, 8
LDA, QDA = LinearDiscriminantAnalysis, QuadraticDiscriminantAnalysis
ESTIMATORS = [
    LDA(),
    LDA(priors=[0.5, 0.3, 0.2]),
    LDA(n_components=1),
    LDA(solver="lsqr"),
    LDA(solver="lsqr", shrinkage=0.3, priors=[0.5, 0.3, 0.2]),
    LDA(solver="eigen"),
    LDA(solver="eigen", shrinkage=0.5),
    QDA(),
    QDA(reg_param=0.2, priors=[0.5, 0.3, 0.2]),
    GaussianNB(),
    GaussianNB(var_smoothing=0.2, priors=[0.5, 0.3, 0.2]),
]


def name(estimator: Any) -> str:
    return "".join(str(estimator).split())


def data(k: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows whose columns are of three scales and belong together; labels are words."""
    rng = np.random.default_rng(seed)
    codes = rng.permutation(np.arange(N + TESTS) % k)
    X = rng.normal(size=(N + TESTS, 3)) @ rng.normal(size=(3, 3)) + 0.8 * rng.normal(size=(k, 3))[codes]
    return X * [1.0, 20.0, 0.05] + [5.0, 0.0, 2.0], np.array(["low", "mid", "top"])[codes]


def for_classes(estimator: Any, k: int) -> Any:
    """The estimator with priors of so many classes."""
    return estimator if k == 3 or estimator.priors is None else clone(estimator).set_params(priors=[0.7, 0.3])


def log_losses(model: Any, X: Any, y: np.ndarray) -> np.ndarray:
    """Minus the logarithm of the probability of each label, by the estimator itself; without underflow."""
    if isinstance(model, GaussianNB):
        scores = model.predict_joint_log_proba(X)
    else:
        scores = model.decision_function(X)
        scores = np.stack([0 * scores, scores], 1) if scores.ndim == 1 else scores
    own = scores[np.arange(len(y)), np.searchsorted(model.classes_, y)]
    return np.logaddexp.reduce(scores, axis=1) - own


@pytest.mark.parametrize(("k", "seed"), [(2, 0), (3, 1), (3, 2)])
@pytest.mark.parametrize("estimator", ESTIMATORS, ids=name)
def test_removals_are_refits_of_the_estimator(estimator: Any, k: int, seed: int):
    X, y = data(k, seed)
    estimator = for_classes(estimator, k)
    test = X[N:], y[N:]
    X, y = X[:N], y[:N]
    model = clone(estimator).fit(X, y)
    influence, before = Influence(from_estimator(model, X, y)), log_losses(model, *test)

    def change(rows: Any) -> np.ndarray:
        left = np.delete(X, rows, axis=0), np.delete(y, rows)
        return log_losses(clone(estimator).fit(*left), *test) - before

    alone = influence.of_each_removal(test)
    some = list(range(0, N, 7))
    assert_close_per_row(alone.effect()[:, some].T, np.stack([change(i) for i in some]), 1e-8)
    assert alone.prediction.startswith("Effects are exact")
    rng = np.random.default_rng(seed)
    sets = {str(size): rng.choice(N, size, replace=False) for size in (2, 9, 40)}
    expected = np.stack([change(rows) for rows in sets.values()])
    assert_close_per_row(influence.of_removal(sets, test).best.T, expected, 1e-8)
    towns = rng.choice(["north", "south", "west"], N)
    found = influence.of_removal(towns, test)
    expected = np.stack([change(np.flatnonzero(towns == town)) for town in found.groups])
    assert_close_per_row(found.best.T, expected, 1e-8)
    checked = verify(influence, test, k=3, own=2)
    assert checked.top.relative_error < 1e-8
    assert checked.estimator is not None
    assert checked.estimator < 1e-8


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("smoothing", [1e-9, 0.1])
def test_weights_of_naive_bayes(seed: int, smoothing: float):
    """First order is the derivative in a row's weight, which adds nothing to variances; removals do (epsilon_)."""
    X, y = data(3, seed)
    test = X[N:], y[N:]
    X, y, w = X[:N], y[:N], np.random.default_rng(seed).uniform(0.3, 2, N)
    estimator = GaussianNB(var_smoothing=smoothing)
    model = clone(estimator).fit(X, y, sample_weight=w)
    influence = Influence(from_estimator(model, X, y, sample_weight=w))
    derivatives, removed, step = [], [], 1e-5
    for i in (0, 11, 50):
        sides = [np.where(np.arange(N) == i, w * (1 + sign * step), w) for sign in (1, -1)]
        up, down = (log_losses(clone(estimator).fit(X, y, sample_weight=one), *test) for one in sides)
        derivatives.append((up - down) / (2 * step))
        left = clone(estimator).fit(np.delete(X, i, 0), np.delete(y, i), sample_weight=np.delete(w, i))
        removed.append(log_losses(left, *test) - log_losses(model, *test))
    assert_close_per_row(influence.on_loss(test).values[:, [0, 11, 50]].T / N, np.stack(derivatives), 1e-6)
    assert_close_per_row(influence.of_each_removal(test).effect()[:, [0, 11, 50]].T, np.stack(removed), 1e-8)


@pytest.mark.parametrize("estimator", ESTIMATORS[:9], ids=name)
def test_first_order_without_weights_is_the_derivative_in_copies_of_a_row(estimator: Any):
    """A row of weight 1 + 1/M is M + 1 copies of it among M of every other row."""
    X, y = data(3, 3)
    test, (X, y), M = (X[N:], y[N:]), (X[:N], y[:N]), 400
    problem = from_estimator(clone(estimator).fit(X, y), X, y)
    if getattr(problem.gaussians, "taken", 0):
        pytest.skip("this version divides by n less the classes, which copies change")
    many, labels = np.tile(X, (M, 1)), np.tile(y, M)
    values, actual = Influence(problem).on_loss(test).values / N, []
    for i in (0, 11, 50):
        up = clone(estimator).fit(np.vstack([many, X[[i]]]), np.append(labels, y[i]))
        down = clone(estimator).fit(np.delete(many, i, 0), np.delete(labels, i))
        actual.append((log_losses(up, *test) - log_losses(down, *test)) * M / 2)
    assert_close_per_row(values[:, [0, 11, 50]].T, np.stack(actual), 1e-4)


@pytest.mark.parametrize("estimator", [LDA(), QDA(reg_param=0.1), GaussianNB()], ids=name)
def test_uses_answer_as_refits_do(estimator: Any):
    X, y = data(2, 4)
    frame = pd.DataFrame(X, columns=["age", "income", "rate"], index=[f"row {i}" for i in range(len(X))])
    train, labels, test = frame[:N], pd.Series(y[:N], index=frame.index[:N]), (frame[N:], y[N:])
    model = make_pipeline(StandardScaler(), clone(estimator)).fit(train, labels)
    problem = from_estimator(model, train, labels)
    influence = Influence(problem)
    assert problem.feature_names == ("age", "income", "rate")
    assert any("held fixed" in note for note in problem.terms.notes)

    scaled = model[:-1].transform(train)
    alone = [clone(estimator).fit(np.delete(scaled, i, 0), np.delete(labels.to_numpy(), i)) for i in range(N)]
    losses = [float(log_losses(one, scaled[[i]], labels.to_numpy()[[i]])[0]) for i, one in enumerate(alone)]
    suspects = mislabeled(influence)
    assert suspects.table.index[0] == f"row {np.argmax(losses)}"
    table = suspects.table.loc[train.index]
    np.testing.assert_allclose(table["loss without the row"], losses, rtol=1e-8, atol=1e-12)
    assert table["proposed label"].tolist() == [one.predict(scaled[[i]])[0] for i, one in enumerate(alone)]

    found = explain(influence, (test[0][:1], test[1][:1]), k=3)
    assert found.said.label == test[1][0]
    assert found.said.probabilities is not None
    assert found.said.probabilities[0] == pytest.approx(model.predict_proba(test[0][:1]).max(), rel=1e-8)
    assert str(found.helpful.index[0]).startswith("row ")

    held = model[:-1].transform(test[0])
    auroc = influence.of_each_removal(test, measure=measures.auroc).effect()[0]
    share = Overall(lambda outputs, y: outputs.sigmoid().mean())
    mean = influence.of_each_removal(test, measure=share).effect()[0]
    from sklearn.metrics import roc_auc_score

    for i in (0, 20, 77):
        now, before = (one.predict_proba(held)[:, 1] for one in (alone[i], model[-1]))
        positive = test[1] == model.classes_[1]
        moved = roc_auc_score(positive, now) - roc_auc_score(positive, before)
        assert float(auroc[i]) == pytest.approx(moved, abs=1e-12)
        assert float(mean[i]) == pytest.approx(now.mean() - before.mean(), rel=1e-6)


def scaled_data(k: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    X, y = data(k, seed)
    return StandardScaler().fit_transform(X), y


@pytest.mark.parametrize("estimator", [LDA(), QDA(reg_param=0.1), GaussianNB(var_smoothing=0.1)], ids=name)
@pytest.mark.parametrize("k", [2, 3])
def test_effects_are_taken_apart_by_columns(estimator: Any, k: int):
    X, y = scaled_data(k, 8)
    test, (X, y) = (X[N : N + 1], y[N : N + 1]), (X[:N], y[:N])
    influence = Influence(from_estimator(clone(estimator).fit(X, y), X, y))
    for measure in (None, measures.margin):
        found = explain(influence, test, k=4, measure=measure)
        first = influence.on_loss(test, measure=measure).removal_effect()[0]
        for table, parts in zip((found.helpful, found.harmful), found.parts, strict=True):
            effects = found.scores.effect()[0][list(table.index)]
            linear = parts.drop(columns="the bend of the measure").sum(axis=1)
            np.testing.assert_allclose(parts.sum(axis=1), effects, rtol=1e-9)
            np.testing.assert_allclose(linear, first[list(table.index)], rtol=1e-9)
            assert table["because of"].str.contains("column").all()
    # a class whose mean alone moves: with sums of squares held, columns are those of the mean
    problem = influence.problem
    row = torch.zeros(problem.p).double()
    problem.layout.unpack(row)["mean"][:, 1] = 1.0
    assert problem.reduced is not None
    parts = problem.reduced.parts(torch.arange(N), row[None])
    assert parts is not None
    assert not bool(parts[:, [0, 2, 3]].any())
    assert bool(parts[:, 1].all())


@pytest.mark.parametrize("estimator", [LDA(), QDA(reg_param=0.1), GaussianNB(var_smoothing=0.3)], ids=name)
@pytest.mark.parametrize("k", [2, 3])
def test_derivatives_in_inputs_are_those_of_refits(estimator: Any, k: int):
    X, y = scaled_data(k, 9)
    test, (X, y), h = (X[N : N + 2], y[N : N + 2]), (X[:N], y[:N]), 1e-5
    influence = Influence(from_estimator(clone(estimator).fit(X, y), X, y))
    widest = int(np.abs(X).max(1).argmax())
    found = influence.on_inputs([4, widest], test) / N
    for b, row in enumerate((4, widest)):
        for j in range(3):
            moved = [X.copy() for _ in range(2)]
            moved[0][row, j] += h
            moved[1][row, j] -= h
            up, down = (log_losses(clone(estimator).fit(there, y), *test) for there in moved)
            np.testing.assert_allclose(found[:, b, j], (up - down) / (2 * h), rtol=1e-5, atol=1e-8)


def test_inputs_of_weighed_rows():
    X, y = (part[:N] for part in scaled_data(2, 9))
    w, h = np.random.default_rng(0).uniform(0.5, 2, len(X)), 1e-5
    model = GaussianNB(var_smoothing=0.3).fit(X, y, sample_weight=w)
    influence = Influence(from_estimator(model, X, y, sample_weight=w))
    found = influence.on_inputs([4], (X[:1], y[:1])) / len(X)
    moved = [X.copy() for _ in range(2)]
    moved[0][4, 1] += h
    moved[1][4, 1] -= h
    up, down = (log_losses(clone(model).fit(there, y, sample_weight=w), X[:1], y[:1]) for there in moved)
    np.testing.assert_allclose(found[0, 0, 1], (up - down) / (2 * h), rtol=1e-5)
    with pytest.raises(DerivativeError, match="rows by number"):
        influence.on_inputs((X[:1], y[:1]), (X[:1], y[:1]), weights=w[:1])


@pytest.mark.parametrize("relabel", [False, True])
@pytest.mark.parametrize("estimator", [LDA(), QDA(reg_param=0.1), GaussianNB()], ids=name)
@pytest.mark.parametrize("k", [2, 3])
def test_flip_sets_flip_the_estimators_own_refits(estimator: Any, k: int, relabel: bool):
    X, y = data(k, 10)
    X = X[:, :2]
    model = clone(estimator).fit(X[:N], y[:N])
    sure = np.sort(model.predict_proba(X[N:]), axis=1)
    row = N + int(np.argsort(sure[:, -1] - sure[:, -2])[2])
    test = X[[row]], y[[row]]
    found = flip_set(Influence(from_estimator(model, X[:N], y[:N])), test, relabel=relabel)
    assert found.rows is not None
    assert found.before == model.predict(test[0])[0]

    def said(rows: np.ndarray) -> Any:
        if relabel:
            labels = y[:N].copy()
            labels[rows] = rival
            return clone(estimator).fit(X[:N], labels).predict(test[0])[0]
        return clone(estimator).fit(np.delete(X[:N], rows, 0), np.delete(y[:N], rows)).predict(test[0])[0]

    rival = model.classes_[np.argsort(model.predict_proba(test[0])[0])[-2]]
    assert said(found.rows.numpy()) == found.after != found.before
    assert said(found.rows.numpy()[:-1]) == found.before


def test_no_flip_set_takes_the_last_rows_of_a_class():
    X, y = data(2, 6)
    y = np.where((y == "mid") & (np.arange(len(y)) > 12), "low", y)
    model = LDA().fit(X, y)
    row = int(np.argmax(model.predict_proba(X)[:, 1]))
    found = flip_set(Influence(from_estimator(model, X, y)), (X[[row]], y[[row]]))
    left = 0 if found.rows is None else len(set(np.flatnonzero(y == "mid")) - set(found.rows.tolist()))
    assert found.rows is None or left > 0


@pytest.mark.parametrize("estimator", [LDA(), QDA(reg_param=0.1), GaussianNB()], ids=name)
@pytest.mark.parametrize("k", [2, 3])
def test_cooks_distances_and_predictions_without_each_row_are_those_of_refits(estimator: Any, k: int):
    X, y = scaled_data(k, 11)
    model = clone(estimator).fit(X, y)
    influence = Influence(from_estimator(model, X, y))
    groups = np.arange(len(X)) % 7
    found, alone = diagnostics(influence, groups), influence.leave_one_out()
    d = X.shape[1]
    for group in found.table.index:
        kept = groups != group
        there = clone(estimator).fit(X[kept], y[kept])
        p, moves = model.predict_proba(X), logits(there, X) - logits(model, X)
        bent = (p * moves**2).sum(1) - ((p * moves).sum(1)) ** 2
        numbers = {"L": 1 + d, "Q": 1 + d + d * (d + 1) // 2, "G": 1 + 2 * d}[type(estimator).__name__[0]]
        expected = bent.sum() / (numbers * (k - 1))
        assert found.table.loc[group, "cooks distance"] == pytest.approx(expected, rel=1e-8)
    for i in (0, 17):
        there = clone(estimator).fit(np.delete(X, i, 0), np.delete(y, i))
        assert float(alone.loss[i]) == pytest.approx(float(log_losses(there, X[[i]], y[[i]])[0]), rel=1e-8)
        assert int(alone.outputs[i].argmax() if k > 2 else alone.outputs[i] > 0) == int(
            np.searchsorted(model.classes_, there.predict(X[[i]])[0])
        )
    assert bool(alone.leverage.isnan().all())
    changes = alone.change((X[:3], y[:3]))
    assert_close_per_row(changes, influence.of_each_removal((X[:3], y[:3])).effect(), 1e-12)


def logits(model: Any, X: np.ndarray) -> np.ndarray:
    """The score of each class."""
    return np.log(np.maximum(model.predict_proba(X), 1e-300))


@pytest.mark.parametrize(
    ("estimator", "words"),
    [
        (LDA(solver="lsqr", shrinkage="auto"), 'shrinkage="auto" is not supported.*give it as a number'),
        (
            LDA(solver="eigen", covariance_estimator=OAS()),
            "covariance_estimator is not supported.*use shrinkage",
        ),
        (LDA(priors=[0.0, 0.5, 0.5]), "prior of 0"),
    ],
    ids=["auto", "estimator", "prior"],
)
def test_what_is_found_in_the_data_is_refused(estimator: Any, words: str):
    X, y = data(3, 0)
    with np.errstate(divide="ignore"):
        model = clone(estimator).fit(X, y)
    with pytest.raises(ValueError, match=words):
        from_estimator(model, X, y)


def test_what_was_fitted_on_other_rows_is_refused():
    X, y = data(3, 0)
    model = (
        GaussianNB(var_smoothing=0.1)
        .partial_fit(X[:60], y[:60], classes=np.unique(y))
        .partial_fit(X[60:], y[60:])
    )
    with pytest.raises(ValueError, match="partial_fit"):
        from_estimator(model, X, y)
    some = GaussianNB().partial_fit(X, y, classes=["low", "mid", "none", "top"])
    with pytest.raises(ValueError, match="a class without a row in y"):
        from_estimator(some, X, y)
    with pytest.raises(ValueError, match="other rows"):
        from_estimator(LDA().fit(X[:70], y[:70]), X, y)
    with pytest.raises(ValueError, match="takes no sample_weight"):
        from_estimator(LDA().fit(X, y), X, y, sample_weight=np.ones(len(X)))
    with pytest.raises(ValueError, match="leave them out for a classifier by moments"):
        from_estimator(LDA().fit(X, y), X, y, polish=True)
    with pytest.raises(ValueError, match="X has a NaN or infinity, first in example 1"):
        from_estimator(LDA().fit(X, y), X, y).evaluate(
            (np.where(np.arange(3)[:, None] == 1, np.nan, X[:3]), y[:3])
        )
    with pytest.raises(TypeError, match="inside another estimator"):
        from_estimator(OneVsRestClassifier(GaussianNB()).fit(X, y), X, y)


def test_collinear_columns_are_left_out_by_svd_and_refused_by_lsqr():
    X, y = data(3, 5)
    X = np.hstack([X, X[:, :1] + X[:, 1:2], np.zeros((len(X), 1))])
    X[3, 4] = 7.0  # without row 3 the last column does not vary, and leaves
    test, (X, y) = (X[N:], y[N:]), (X[:N], y[:N])
    model = LDA().fit(X, y)
    found = Influence(from_estimator(model, X, y)).of_each_removal(test).effect()
    for i in (0, 3, 50):
        there = LDA().fit(np.delete(X, i, 0), np.delete(y, i))
        assert_close_per_row(
            found[:, i][None], (log_losses(there, *test) - log_losses(model, *test))[None], 1e-7
        )
    with pytest.raises(ValueError, match="covariance within classes is singular"):
        from_estimator(LDA(solver="lsqr").fit(X, y), X, y)


def test_a_class_of_one_row_cannot_lose_it():
    X, y = data(3, 6)
    y = np.where((y == "top") & (np.arange(len(y)) != np.flatnonzero(y == "top")[0]), "mid", y)
    lonely = int(np.flatnonzero(y == "top")[0])
    influence = Influence(from_estimator(LDA().fit(X, y), X, y))
    effect = influence.of_each_removal((X[:4], y[:4])).effect()
    assert effect.isnan().any(0).nonzero()[:, 0].tolist() == [lonely]
    with pytest.raises(ValueError, match="class 'top' has no other rows"):
        influence.of_removal({"it": [lonely]}, (X[:4], y[:4]))
    table = mislabeled(influence).table
    assert table.index[-1] == lonely
    assert np.isnan(table["loss without the row"].iloc[-1])


def test_what_a_wrapper_holds_is_read():
    X, y = data(2, 7)
    model = CalibratedClassifierCV(GaussianNB(), ensemble=False, cv=3).fit(X, y)
    problem = from_estimator(model, X, y)
    assert any("calibration" in note for note in problem.terms.notes)

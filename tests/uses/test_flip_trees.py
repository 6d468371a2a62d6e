"""Sets of rows that flip what trees say: the library's own training is the judge, random sets are the control."""

from typing import Any

import numpy as np
import pytest
import torch
from sklearn import datasets
from sklearn.base import clone
from sklearn.ensemble import (
    GradientBoostingClassifier,
    GradientBoostingRegressor,
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
)

import upweight as uw

N = 120
"""Rows for training; the others are asked about."""


def table(load: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Rows for training and others of a real data set, in an order drawn once."""
    X, y = load(return_X_y=True)
    order = np.random.default_rng(1).permutation(len(X))
    return X[order[:N]], y[order[:N]], X[order[N:]], y[order[N:]]


def library(name: str, kind: str = "Classifier") -> Any:
    """A booster of a library, of twenty trees; the test is skipped where it is not installed."""
    if name == "exact":
        found = GradientBoostingClassifier if kind == "Classifier" else GradientBoostingRegressor
        return found(n_estimators=20, random_state=0)
    if name == "hist":
        found = HistGradientBoostingClassifier if kind == "Classifier" else HistGradientBoostingRegressor
        return found(max_iter=20, min_samples_leaf=5, random_state=0)
    module = pytest.importorskip(name)
    options: Any = {
        "xgboost": {"max_depth": 3, "n_jobs": 1},
        "lightgbm": {"num_leaves": 7, "min_child_samples": 5, "n_jobs": 1, "verbosity": -1},
        "catboost": {
            "depth": 3, "learning_rate": 0.3, "thread_count": 1, "verbose": False, "allow_writing_files": False,
        },
    }[name]  # fmt: skip
    prefix = {"xgboost": "XGB", "lightgbm": "LGBM", "catboost": "CatBoost"}[name]
    return getattr(module, prefix + kind)(n_estimators=20, random_state=0, **options)


LIBRARIES = ["exact", "hist", "xgboost", "lightgbm", "catboost"]


def said_without(model: Any, X: np.ndarray, y: np.ndarray, rows: Any, asked: np.ndarray) -> Any:
    """What the library's own training without those rows says of one row."""
    kept = np.setdiff1d(np.arange(len(y)), np.asarray(rows))
    return np.ravel(clone(model).fit(X[kept], y[kept]).predict(asked))[0]


@pytest.mark.parametrize("load", [datasets.load_breast_cancer, datasets.load_wine])
@pytest.mark.parametrize("name", LIBRARIES)
def test_the_librarys_own_training_confirms_what_is_found(name: str, load: Any) -> None:
    X, y, X_test, y_test = table(load)
    model = library(name).fit(X, y)
    sure = model.predict_proba(X_test)
    asked = np.argsort(np.sort(sure, axis=1)[:, -1])[[0, 4]]
    influence = uw.Influence(uw.from_estimator(model, X, y))
    whole: Any = influence.problem
    confirmed = 0
    for i in asked:
        test = X_test[[i]], y_test[[i]]
        said = np.ravel(model.predict(test[0]))[0]
        found = uw.flip_set(influence, test)
        assert found.before == said
        assert found.at_fixed_splits is not None
        if len(fixed := found.at_fixed_splits):
            moved = whole.refitted(whole.weights.index_fill(0, fixed, 0))
            assert decided(moved, test) != said
            one_less = whole.refitted(whole.weights.index_fill(0, fixed[:-1], 0))
            assert decided(one_less, test) == said
        if found.rows is None:
            continue
        confirmed += 1
        assert said_without(model, X, y, found.rows, test[0]) == found.after != said
        assert len(found.rows) == 1 or said_without(model, X, y, found.rows[:-1], test[0]) == said
        assert "confirmed by retraining" in repr(found)
        assert "no smaller set is excluded" in repr(found)
    assert confirmed >= 1


def decided(problem: Any, test: Any) -> Any:
    """The class that trees at other leaf values say."""
    outputs = problem.outputs(problem.prepared(test)[0])
    return int(outputs[0, 0] > 0) if problem.c == 1 else int(outputs.argmax())


@pytest.mark.parametrize("name", LIBRARIES)
def test_random_sets_of_that_size_seldom_flip_it(name: str) -> None:
    X, y, X_test, y_test = table(datasets.load_breast_cancer)
    model = library(name).fit(X, y)
    influence = uw.Influence(uw.from_estimator(model, X, y))
    asked = np.argsort(np.abs(model.predict_proba(X_test).max(1) - 0.9))[:3]
    draw, flipped = np.random.default_rng(0), []
    for i in asked:
        found = uw.flip_set(influence, (X_test[[i]], y_test[[i]]))
        if found.rows is not None:
            sets = [draw.choice(N, len(found.rows), replace=False) for _ in range(5)]
            flipped += [said_without(model, X, y, rows, X_test[[i]]) != found.before for rows in sets]
    assert flipped
    assert np.mean(flipped) <= 0.25


@pytest.mark.parametrize("name", LIBRARIES)
@pytest.mark.parametrize("side", [-1, 1])
def test_a_quantity_is_moved_past_a_value(name: str, side: int) -> None:
    X, y, X_test, y_test = table(datasets.load_diabetes)
    model = library(name, "Regressor").fit(X, y)
    value = float(np.ravel(model.predict(X_test[:1]))[0])
    past = value + side * 0.05 * np.std(y)
    found = uw.flip_set(uw.Influence(uw.from_estimator(model, X, y)), (X_test[:1], y_test[:1]), past=past)
    assert found.rows is not None
    np.testing.assert_allclose(found.before, value, rtol=1e-5)
    after = said_without(model, X, y, found.rows, X_test[:1])
    np.testing.assert_allclose(after, found.after, rtol=1e-5)
    assert (after - past) * side > 0


def test_the_value_of_counts_is_in_their_own_unit() -> None:
    X, y, X_test, _ = table(datasets.load_diabetes)
    model = HistGradientBoostingRegressor(loss="poisson", max_iter=20, random_state=0).fit(X, y)
    value = model.predict(X_test[:1])[0]
    found = uw.flip_set(
        uw.Influence(uw.from_estimator(model, X, y)), (X_test[:1], [150.0]), past=0.95 * value
    )
    assert found.rows is not None
    np.testing.assert_allclose(found.before, value, rtol=1e-6)
    after = said_without(model, X, y, found.rows, X_test[:1])
    np.testing.assert_allclose(after, found.after, rtol=1e-6)
    assert after < 0.95 * value


@pytest.mark.parametrize("leaf", [1, 3])
def test_forests_flip_also_where_every_leaf_has_one_label(leaf: int) -> None:
    X, y, X_test, y_test = table(datasets.load_breast_cancer)
    model = RandomForestClassifier(30, min_samples_leaf=leaf, random_state=0).fit(X, y)
    i = int(np.abs(model.predict_proba(X_test)[:, 1] - 0.4).argmin())
    test = X_test[[i]], y_test[[i]]
    found = uw.flip_set(uw.Influence(uw.from_estimator(model, X, y)), test)
    assert found.rows is not None
    assert said_without(model, X, y, found.rows, test[0]) == found.after != model.predict(test[0])[0]


def test_what_a_row_carries_adds_up_to_the_margin_of_a_forest() -> None:
    from upweight.uses.flip_trees import carried
    from upweight.uses.verdicts import verdict_of

    X, y, X_test, y_test = table(datasets.load_wine)
    problem = uw.from_estimator(RandomForestClassifier(10, random_state=0).fit(X, y), X, y)
    test = X_test[:1], y_test[:1]
    verdict = verdict_of(problem, outputs := problem.outputs(problem.prepared(test)[0]), None)
    found = carried(problem, test, verdict)
    assert float(-found.sum()) == pytest.approx(float(verdict.margin(outputs)))


def test_the_limit_is_kept_and_no_set_is_said() -> None:
    X, y, X_test, y_test = table(datasets.load_breast_cancer)
    model = library("exact").fit(X, y)
    i = int(model.predict_proba(X_test).max(1).argmax())
    influence = uw.Influence(uw.from_estimator(model, X, y))
    found = uw.flip_set(influence, (X_test[[i]], y_test[[i]]), most=3)
    assert found.rows is None
    assert "No set found" in repr(found)


def test_refit_stands_in_for_an_estimator_that_is_not_known() -> None:
    xgboost = pytest.importorskip("xgboost")
    X, y, X_test, y_test = table(datasets.load_breast_cancer)
    options = {"objective": "binary:logistic", "max_depth": 3}

    def trained(rows: Any) -> Any:
        return xgboost.train(options, xgboost.DMatrix(X[rows], y[rows]), 20)

    everything = np.arange(N)
    problem = uw.from_estimator(trained(everything), X, y)
    i = int(np.abs(trained(everything).predict(xgboost.DMatrix(X_test)) - 0.5).argmin())
    test = X_test[[i]], y_test[[i]]
    with pytest.raises(ValueError, match="give refit="):
        uw.flip_set(uw.Influence(problem), test)

    def refit(kept: torch.Tensor) -> Any:
        return uw.from_estimator(trained(kept.numpy()), X[kept.numpy()], y[kept.numpy()])

    found = uw.flip_set(uw.Influence(problem), test, refit=refit)
    assert found.rows is not None
    kept = np.setdiff1d(everything, found.rows.numpy())
    assert (trained(kept).predict(xgboost.DMatrix(test[0]))[0] > 0.5) == (found.after > 0)


def test_bad_input_gets_a_sentence() -> None:
    X, y, X_test, y_test = table(datasets.load_breast_cancer)
    influence = uw.Influence(uw.from_estimator(library("exact").fit(X, y), X, y))
    test = X_test[:1], y_test[:1]
    with pytest.raises(TypeError, match="does not relabel"):
        uw.flip_set(influence, test, relabel=True)
    with pytest.raises(ValueError, match="one test row, got 2"):
        uw.flip_set(influence, (X_test[:2], y_test[:2]))
    with pytest.raises(ValueError, match="past is a bar for predictions of quantities"):
        uw.flip_set(influence, test, past=0.5)
    X, y, X_test, y_test = table(datasets.load_diabetes)
    model = library("exact", "Regressor").fit(X, y)
    quantity = uw.Influence(uw.from_estimator(model, X, y))
    with pytest.raises(ValueError, match="give past="):
        uw.flip_set(quantity, (X_test[:1], y_test[:1]))
    with pytest.raises(TypeError, match="past and refit are for trees"):
        uw.flip_set(uw.Influence(uw.LinearProblem.fit(X, y, loss=uw.Squared(), l2=1)), (X[:1], y[:1]), past=1)


def test_training_that_is_not_what_was_given_is_refused() -> None:
    X, y, X_test, y_test = table(datasets.load_breast_cancer)
    model = RandomForestClassifier(5, random_state=0).fit(X, y)
    problem = uw.from_estimator(model, X, y)
    sure = model.predict_proba(X_test).max(1)
    test = X_test[[int(sure.argmax())]], y_test[[int(sure.argmax())]]

    def other(kept: torch.Tensor) -> Any:
        flipped = 1 - y[kept.numpy()]
        again = clone(model).fit(X[kept.numpy()], flipped)
        return uw.from_estimator(again, X[kept.numpy()], flipped)

    with pytest.raises(ValueError, match="once they are trained again on all rows"):
        uw.flip_set(uw.Influence(problem), test, refit=other)


def test_a_class_that_goes_with_its_last_row_ends_the_search() -> None:
    X = np.r_[np.linspace(0, 1, 20), 5.0][:, None]
    y = np.r_[np.zeros(20, int), 1]
    model = GradientBoostingClassifier(n_estimators=50, random_state=0).fit(X, y)
    assert model.predict([[5.0]])[0] == 1
    found = uw.flip_set(uw.Influence(uw.from_estimator(model, X, y)), (X[[20]], y[[20]]), most=2)
    assert found.rows is None

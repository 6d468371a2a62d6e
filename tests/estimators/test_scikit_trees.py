"""Boosting and forests of scikit-learn, as they are read from fitted estimators."""

import inspect

import numpy as np
import pytest
from sklearn.ensemble import (
    ExtraTreesClassifier,
    ExtraTreesRegressor,
    GradientBoostingClassifier,
    GradientBoostingRegressor,
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.multiclass import OneVsRestClassifier
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

import upweight as uw
from upweight.errors import InfluenceError

from ..support.boosters import HOLES, TARGETS, WEIGHTS, N, X, as_retrained, fitted, follows_weights, read

GB, GBR = GradientBoostingClassifier, GradientBoostingRegressor
HIST, HISTR = HistGradientBoostingClassifier, HistGradientBoostingRegressor
FOREST = {"n_estimators": 8, "min_samples_leaf": 12, "random_state": 0}
CASES = [
    (GB(n_estimators=8), "two"),
    (GB(n_estimators=8, subsample=0.5, random_state=3), "two"),
    (GB(n_estimators=5), "three"),
    (GB(n_estimators=40, n_iter_no_change=3, random_state=1, init="zero"), "two"),
    (GBR(n_estimators=8, max_leaf_nodes=6), "number"),
    (HIST(max_iter=8), "two"),
    (HIST(max_iter=5, class_weight="balanced", l2_regularization=1.0), "three"),
    (HIST(max_iter=40, early_stopping=True, n_iter_no_change=3, random_state=1), "two"),
    (HISTR(max_iter=8), "number"),
    (HISTR(max_iter=8, loss="poisson"), "counts"),
    (HISTR(max_iter=8, loss="gamma"), "amounts"),
    (HISTR(max_iter=3, min_samples_leaf=200), "number"),
    (RandomForestClassifier(**FOREST), "three"),
    (RandomForestClassifier(**FOREST, class_weight="balanced_subsample"), "three"),
    (DecisionTreeClassifier(max_depth=3), "three"),
    (DecisionTreeRegressor(max_depth=3), "number"),
    (RandomForestRegressor(**FOREST), "number"),
    (ExtraTreesClassifier(**FOREST, bootstrap=True), "two"),
    (ExtraTreesRegressor(**FOREST), "number"),
    (ExtraTreesClassifier(**FOREST, class_weight={"low": 1.0, "mid": 3.0, "top": 0.5}), "three"),
]


@pytest.mark.parametrize("weighted", [False, True], ids=["", "weights"])
@pytest.mark.parametrize(("estimator", "task"), CASES, ids=[f"{e}-{t}" for e, t in CASES])
def test_the_derivative_is_that_of_leaves_fitted_with_other_weights(estimator, task, weighted):
    table = HOLES if isinstance(estimator, (HIST, HISTR)) else X
    problem, test = read(estimator, table, task, WEIGHTS if weighted else None)
    follows_weights(problem, test)


KEPT = [
    (GB(n_estimators=10, max_depth=2), "two"),
    (GB(n_estimators=10, max_depth=2), "three"),
    (GBR(n_estimators=10, max_depth=2), "number"),
    (HIST(max_iter=10, max_depth=2, min_samples_leaf=2), "three"),
    (HIST(max_iter=10, max_depth=2, min_samples_leaf=2, l2_regularization=2.0), "two"),
    (HISTR(max_iter=10, max_depth=2, min_samples_leaf=2), "number"),
    (HISTR(max_iter=10, max_depth=2, min_samples_leaf=2, loss="poisson"), "counts"),
    (ExtraTreesRegressor(5, max_depth=2, random_state=0), "number"),
    (DecisionTreeClassifier(max_depth=2), "three"),
]


@pytest.mark.parametrize(("estimator", "task"), KEPT, ids=[f"{e}-{t}" for e, t in KEPT])
def test_leaves_fitted_without_rows_are_those_of_a_retraining_that_splits_as_before(estimator, task):
    as_retrained(estimator, task)
    as_retrained(estimator, task, WEIGHTS)


@pytest.mark.parametrize("what", ["labels", "rows", "weights", "order"])
def test_data_that_it_was_not_trained_on_are_refused_with_the_place(what):
    y = TARGETS["two"].copy()
    model = fitted(HIST(max_iter=5), X[:N], y[:N], WEIGHTS)
    rows: np.ndarray = X[:N].copy()
    weight: np.ndarray | None = WEIGHTS
    if what == "labels":
        y[3] = "no" if y[3] == "yes" else "yes"
    elif what == "rows":
        rows[5] = rows[6]
    elif what == "weights":
        weight = None
    else:
        rows = rows[::-1].copy()
    with pytest.raises(InfluenceError, match=r"leaf \d+ of tree 0 of round \d+ has the value .* largest"):
        uw.from_estimator(model, rows, y[:N], sample_weight=weight)


REFUSED = [
    (GBR(n_estimators=3, loss="huber"), "loss='huber'"),
    (GBR(n_estimators=3, subsample=0.5), "random_state that is no number"),
    (GBR(n_estimators=3, init=RandomForestRegressor(2)), "init="),
    (HISTR(max_iter=3, monotonic_cst=[1, 0, 0, 0]), "monotonic_cst"),
    (RandomForestRegressor(3, criterion="absolute_error"), "criterion"),
]


@pytest.mark.parametrize(("estimator", "said"), REFUSED, ids=[said for _, said in REFUSED])
def test_settings_that_do_not_determine_the_leaves_are_refused_in_a_sentence(estimator, said):
    with pytest.raises(ValueError, match=f"{said}.*by_refitting"):
        read(estimator, X, "number")


def test_rows_given_to_stop_early_leave_all_rows_to_training():
    model = HIST(max_iter=40, early_stopping=True, n_iter_no_change=3)
    if "X_val" not in inspect.signature(model.fit).parameters:
        pytest.skip("this scikit-learn takes no rows to stop by")
    y = TARGETS["two"]
    model.fit(X[:N], y[:N], X_val=X[N:], y_val=y[N:])
    problem = uw.from_estimator(model, X[:N], y[:N])
    assert bool((problem.weights > 0).all())
    follows_weights(problem, (X[N:], y[N:]))


def test_trees_inside_another_estimator_are_refused_for_that():
    y = TARGETS["three"][:N]
    model = OneVsRestClassifier(HIST(max_iter=2)).fit(X[:N], y)
    with pytest.raises(
        TypeError, match=r"HistGradientBoostingClassifier inside another estimator.*by_refitting"
    ):
        uw.from_estimator(model, X[:N], y)


def test_monotonic_constraints_that_bind_nothing_are_read():
    follows_weights(*read(HISTR(max_iter=4, monotonic_cst=[0, 0, 0, 0]), X, "number"))


def test_what_was_held_fixed_is_said():
    problem, _ = read(RandomForestClassifier(**FOREST), X, "two")
    assert any("drew" in note for note in problem.terms.notes)
    subsample, _ = read(RandomForestClassifier(**FOREST, class_weight="balanced_subsample"), X, "two")
    assert any("each tree gave the classes" in note for note in subsample.terms.notes)
    balanced, _ = read(HIST(max_iter=2, class_weight="balanced"), X, "two")
    assert any("counts of the classes are held fixed" in note for note in balanced.terms.notes)
    stopped, _ = read(HIST(max_iter=40, early_stopping=True, n_iter_no_change=3, random_state=1), X, "two")
    assert any("24 rows were held out" in note for note in stopped.terms.notes)
    held = np.flatnonzero(stopped.weights == 0)
    found = uw.Influence(stopped).on_loss((X[N:], TARGETS["two"][N:])).values
    assert len(held) == 24
    assert (found[:, held] == 0).all()


def test_of_forests_grown_to_purity_it_is_said_that_weights_move_nothing():
    pure, test = read(RandomForestClassifier(5, random_state=0), X, "two")
    assert any("100% of its leaves" in note and "min_samples_leaf" in note for note in pure.terms.notes)
    assert (uw.Influence(pure).on_loss(test).values.abs() < 1e-12).all()
    mixed, _ = read(RandomForestClassifier(**FOREST), X, "two")
    assert not any("of its leaves" in note for note in mixed.terms.notes)


def test_a_leaf_that_a_removal_leaves_empty_is_undetermined_and_named():
    problem, test = read(RandomForestRegressor(3, random_state=0, bootstrap=False), X, "number")
    leaf = problem.trained.structure.leaf[0]
    mine = problem.trained.structure.apply(test[0])[0, 0]
    alone = [int(i) for i in (leaf == mine).nonzero().flatten()]
    found = uw.Influence(problem).of_removal({"alone": alone, "others": [(alone[0] + 1) % N]}, test)
    assert found.recomputed is not None
    assert found.recomputed[0, 0].isnan()
    assert "alone" in found.undetermined
    assert "A leaf that test rows are in has no other rows" in repr(found)

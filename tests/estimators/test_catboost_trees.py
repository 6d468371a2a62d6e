"""Boosted trees of CatBoost: Newton steps over all rows, read back where they were halved."""

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone

import upweight as uw
from upweight.errors import InfluenceError

from ..support.boosters import (
    HOLES,
    TARGETS,
    TOTAL,
    WEIGHTS,
    N,
    X,
    as_retrained,
    fitted,
    follows_weights,
    read,
)

catboost = pytest.importorskip("catboost")
SMALL = {"iterations": 8, "depth": 3, "verbose": 0, "allow_writing_files": False, "thread_count": 1}
TEN = {"leaf_estimation_iterations": 10}
CAT, CATR = catboost.CatBoostClassifier, catboost.CatBoostRegressor
CASES = {
    "logistic": (CAT(**SMALL), "two"),
    "ten steps": (CAT(**TEN, **SMALL), "two"),
    "ten steps that were halved": (
        CATR(loss_function="Poisson", **{**SMALL, **TEN, "iterations": 12}),
        "counts",
    ),
    "a start by the data": (CAT(boost_from_average=True, **SMALL), "two"),
    "class weights": (CAT(auto_class_weights="Balanced", l2_leaf_reg=1.0, **SMALL), "two"),
    "squared": (CATR(**SMALL), "number"),
    "ordered, in bags": (
        CATR(boosting_type="Ordered", bootstrap_type="Bernoulli", subsample=0.5, **SMALL),
        "number",
    ),
    "grown leaf by leaf": (CAT(grow_policy="Lossguide", max_leaves=6, **SMALL), "two"),
    "poisson": (CATR(loss_function="Poisson", **SMALL), "counts"),
    "several classes": (CAT(**SMALL), "three"),
    "against the rest": (CAT(loss_function="MultiClassOneVsAll", **SMALL), "three"),
    "several classes, ten steps": (CAT(**TEN, **SMALL), "three"),
    "several classes, class weights": (
        CAT(auto_class_weights="Balanced", grow_policy="Lossguide", max_leaves=6, **SMALL),
        "three",
    ),
}


@pytest.mark.parametrize("weight", [None, WEIGHTS], ids=["", "weights"])
@pytest.mark.parametrize("name", CASES)
def test_the_derivative_is_that_of_leaves_fitted_with_other_weights(name, weight):
    estimator, task = CASES[name]
    follows_weights(*read(estimator, HOLES, task, weight), step=1e-2 if task == "counts" else 2e-3)


@pytest.mark.parametrize("name", ["logistic", "ten steps", "squared", "poisson", "several classes"])
def test_leaves_fitted_without_rows_are_those_of_a_retraining_that_splits_as_before(name):
    estimator, task = CASES[name]
    estimator = clone(estimator).set_params(
        depth=2, learning_rate=0.1, bootstrap_type="No", leaf_estimation_backtracking="No"
    )
    as_retrained(estimator, task)
    as_retrained(estimator, task, WEIGHTS)


def test_steps_that_were_halved_or_left_out_are_read_back():
    estimator, task = CASES["ten steps that were halved"]
    problem, _ = read(estimator, HOLES, task)
    steps = {one.steps for one in problem.trained.structure.rounds}
    assert len(steps) > 1
    assert all(len(own) <= 10 for own in steps)


def test_categories_of_few_values_are_read_and_those_of_many_refused():
    draw = np.random.default_rng(1)
    city = draw.integers(0, 8, TOTAL).astype(str)
    table = pd.DataFrame(X, columns=list("abcd")).assign(city=city)
    y = TARGETS["number"] + 3.0 * np.isin(city, ["1", "3", "6"])
    for most, said in ((20, None), (2, "one_hot_max_size=2: they are numbered by the labels")):
        model = CATR(cat_features=["city"], one_hot_max_size=most, **SMALL).fit(table[:N], y[:N])
        if said is None:
            follows_weights(uw.from_estimator(model, table[:N], y[:N]), (table[N:], y[N:]))
        else:
            with pytest.raises(ValueError, match=said):
                uw.from_estimator(model, table[:N], y[:N])


@pytest.mark.parametrize("policy", ["SymmetricTree", "Depthwise"])
def test_categories_beside_several_classes_are_read_and_those_by_target_statistics_refused(policy):
    city = np.random.default_rng(1).integers(0, 8, TOTAL).astype(str)
    table = pd.DataFrame(X, columns=list("abcd")).assign(city=city)
    y = np.where(np.isin(city, ["1", "3"]), "top", TARGETS["three"])
    for most, said in ((20, None), (2, "one_hot_max_size=2: they are numbered by the labels")):
        model = CAT(cat_features=["city"], grow_policy=policy, one_hot_max_size=most, **SMALL)
        model.fit(table[:N], y[:N], sample_weight=WEIGHTS)
        if said is None:
            problem = uw.from_estimator(model, table[:N], y[:N], sample_weight=WEIGHTS)
            follows_weights(problem, (table[N:], y[N:]))
        else:
            with pytest.raises(ValueError, match=said):
                uw.from_estimator(model, table[:N], y[:N], sample_weight=WEIGHTS)


def test_a_model_that_was_loaded_or_stopped_early_is_read(tmp_path):
    y = TARGETS["two"]
    model = CAT(**{**SMALL, "iterations": 60, "learning_rate": 0.5, "od_wait": 3})
    model.fit(X[:N], y[:N], eval_set=(X[N:], y[N:]))
    assert model.tree_count_ < 60
    model.save_model(tmp_path / "model.cbm")
    loaded = CAT().load_model(tmp_path / "model.cbm")
    own, again = (uw.from_estimator(one, X[:N], y[:N]) for one in (model, loaded))
    assert own.fingerprint() == again.fingerprint()


@pytest.mark.parametrize("weight", [None, WEIGHTS], ids=["", "weights"])
@pytest.mark.parametrize("loss", ["MAE", "Quantile:alpha=0.3", "Quantile:alpha=0.8"])
def test_leaves_that_are_quantiles_are_computed_anew_without_rows(loss, weight):
    as_retrained(CATR(loss_function=loss, **{**SMALL, "depth": 2}), "amounts", weight, rtol=1e-5)
    problem, test = read(CATR(loss_function=loss, **SMALL), HOLES, "number", weight)
    with pytest.raises(ValueError, match=r"have no derivative.*of_removal"):
        uw.Influence(problem).on_loss(test)
    assert uw.Influence(problem).of_removal([1, 2], test).best.isfinite().all()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"loss_function": "Quantile:alpha=0.3;delta=0.01"}, "leaf_estimation_method='Exact'"),
        ({"langevin": True}, "langevin"),
        ({"model_shrink_rate": 0.1}, "model_shrink_rate"),
        ({"monotone_constraints": [1, 0, 0, 0]}, "monotone_constraints"),
        ({"loss_function": "Poisson", "leaf_estimation_method": "Gradient"}, "'Gradient'"),
    ],
    ids=str,
)
def test_settings_that_do_not_determine_the_leaves_are_refused_in_a_sentence(settings, said):
    y = TARGETS["counts"][:N]
    model = CATR(**settings, **SMALL).fit(X[:N], y)
    with pytest.raises(ValueError, match=f"({said}).*by_refitting"):
        uw.from_estimator(model, X[:N], y)


def test_labels_that_it_was_not_trained_on_are_refused_with_the_place():
    y = TARGETS["two"].copy()
    model = fitted(CASES["ten steps"][0], X[:N], y[:N])
    y[3] = "no" if y[3] == "yes" else "yes"
    with pytest.raises(InfluenceError, match=r"leaf \d+ of tree 0 of round \d+ has the value"):
        uw.from_estimator(model, X[:N], y[:N])


def test_several_classes_without_a_penalty_are_refused_since_their_values_are_not_determined():
    with pytest.raises(ValueError, match=r"l2_leaf_reg=0 and several classes.*by_refitting"):
        read(CAT(l2_leaf_reg=0, **SMALL), X, "three")


def test_on_real_data_of_several_classes_scores_and_derivatives_are_those_of_the_model():
    from sklearn.datasets import load_wine

    every, y = load_wine(return_X_y=True)
    model = CAT(**{**SMALL, "iterations": 60, "learning_rate": 0.2}).fit(every[20:], y[20:])
    problem = uw.from_estimator(model, every[20:], y[20:])
    raw = model.predict(every[:20], prediction_type="RawFormulaVal")
    test = every[:20], y[:20]
    assert np.abs(problem.outputs(problem.prepared(test)[0]).numpy() - raw).max() < 1e-9
    follows_weights(problem, test)

"""Boosted trees of LightGBM, as they are read from the text of the model."""

import pytest
from sklearn.base import clone

import upweight as uw
from upweight.errors import InfluenceError

from ..support.boosters import HOLES, TARGETS, WEIGHTS, N, X, as_retrained, fitted, follows_weights, read

lightgbm = pytest.importorskip("lightgbm")
SMALL = {"n_estimators": 8, "num_leaves": 6, "n_jobs": 1, "verbosity": -1}
LGBM, LGBMR = lightgbm.LGBMClassifier, lightgbm.LGBMRegressor
CASES = {
    "logistic": (LGBM(**SMALL), "two"),
    "every penalty": (
        LGBM(reg_alpha=0.5, reg_lambda=2.0, max_delta_step=0.4, scale_pos_weight=2.0, **SMALL),
        "two",
    ),
    "unbalanced": (LGBM(is_unbalance=True, **SMALL), "two"),
    "softmax": (LGBM(class_weight="balanced", **SMALL), "three"),
    "squared": (LGBMR(**SMALL), "number"),
    "poisson": (LGBMR(objective="poisson", **SMALL), "counts"),
}
BAGS = LGBM(bagging_fraction=0.5, bagging_freq=2, min_child_samples=5, **SMALL)


@pytest.mark.parametrize("weight", [None, WEIGHTS], ids=["", "weights"])
@pytest.mark.parametrize("name", [*CASES, "bags"])
def test_the_derivative_is_that_of_leaves_fitted_with_other_weights(name, weight):
    estimator, task = (BAGS, "two") if name == "bags" else CASES[name]
    follows_weights(*read(estimator, HOLES, task, weight))


@pytest.mark.parametrize("name", CASES)
def test_leaves_fitted_without_rows_are_those_of_a_retraining_that_splits_as_before(name):
    estimator, task = CASES[name]
    if name in ("unbalanced", "softmax"):
        pytest.skip("the weights of classes follow their counts in a retraining")
    estimator = clone(estimator).set_params(min_child_samples=1, num_leaves=4)
    as_retrained(estimator, task)
    as_retrained(estimator, task, WEIGHTS)


def test_labels_that_it_was_not_trained_on_are_refused_with_the_place():
    y = TARGETS["two"].copy()
    model = fitted(LGBM(**SMALL), X[:N], y[:N])
    y[3] = "no" if y[3] == "yes" else "yes"
    with pytest.raises(InfluenceError, match=r"leaf \d+ of tree 0 of round \d+ has the value"):
        uw.from_estimator(model, X[:N], y[:N])

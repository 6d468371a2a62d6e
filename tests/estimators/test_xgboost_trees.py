"""Boosted trees of XGBoost, as they are read from the models that it keeps and saves."""

import pytest
from sklearn.base import clone

import upweight as uw
from upweight.errors import InfluenceError

from ..support.boosters import (
    HOLES,
    SWITCHED,
    TARGETS,
    WEIGHTS,
    N,
    X,
    as_retrained,
    fitted,
    follows_weights,
    numbered,
    read,
)

xgboost = pytest.importorskip("xgboost")
SMALL = {"n_estimators": 8, "max_depth": 3, "n_jobs": 1}


CODED = numbered(TARGETS)
CASES = {
    "logistic": (xgboost.XGBClassifier(**SMALL), "two"),
    "every penalty": (
        xgboost.XGBClassifier(reg_alpha=0.2, reg_lambda=3, max_delta_step=0.4, scale_pos_weight=2.0, **SMALL),
        "two",
    ),
    "softmax": (xgboost.XGBClassifier(**SMALL), "three"),
    "squared": (xgboost.XGBRegressor(**SMALL), "number"),
    "a start that was given": (xgboost.XGBRegressor(base_score=2.5, **SMALL), "number"),
    "poisson": (xgboost.XGBRegressor(objective="count:poisson", **SMALL), "counts"),
}


@pytest.mark.parametrize("weight", [None, WEIGHTS], ids=["", "weights"])
@pytest.mark.parametrize("name", CASES)
def test_the_derivative_is_that_of_leaves_fitted_with_other_weights(name, weight):
    estimator, task = CASES[name]
    follows_weights(*read(estimator, HOLES, task, weight, CODED))


@pytest.mark.parametrize("name", CASES)
def test_leaves_fitted_without_rows_are_those_of_a_retraining_that_splits_as_before(name):
    estimator, task = CASES[name]
    estimator = clone(estimator).set_params(max_depth=2, min_child_weight=0, n_estimators=3)
    as_retrained(estimator, task, targets=numbered(SWITCHED), rtol=1e-6)
    as_retrained(estimator, task, WEIGHTS, targets=numbered(SWITCHED), rtol=1e-6)


def test_labels_that_it_was_not_trained_on_are_refused_with_the_place():
    y = CODED["two"].copy()
    model = fitted(xgboost.XGBClassifier(**SMALL), X[:N], y[:N])
    y[3] = 1 - y[3]
    with pytest.raises(InfluenceError, match=r"leaf \d+ of tree 0 of round \d+ has the value"):
        uw.from_estimator(model, X[:N], y[:N])

"""Wrappers and estimators that choose: what is left of them is the plain estimator that they settled on."""

import re
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import TransformedTargetRegressor
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import (
    BayesianRidge,
    ElasticNetCV,
    LassoCV,
    LogisticRegression,
    LogisticRegressionCV,
    Ridge,
    RidgeClassifierCV,
    RidgeCV,
)
from sklearn.model_selection import GridSearchCV, RandomizedSearchCV, TunedThresholdClassifierCV
from sklearn.pipeline import FeatureUnion, make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

from tests.support.compare import assert_close_per_row
from tests.support.estimators import TARGETS, TIGHT, WEIGHTS, N, X, name
from tests.support.refits import one_contribution
from upweight import Influence, from_estimator, verify

LOGISTIC = LogisticRegression(C=0.3, **TIGHT)
SCALER = StandardScaler()
GRID = {"C": [0.1, 0.3]}
FOLDS: dict[str, Any] = {
    "cv": 3,
    "l1_ratios": (0,),
    "scoring": "neg_log_loss",
    "use_legacy_attributes": False,
    **TIGHT,
}
NET: dict[str, Any] = {"tol": 1e-13, "max_iter": 10**6, "cv": 3}

CASES: list[Any] = [
    (RidgeCV(alphas=(1.0, 20.0)), "number", "alpha=.*chosen by cross-validation"),
    (RidgeCV(alphas=(1.0, 20.0), alpha_per_target=True), "numbers", "alpha="),
    (RidgeClassifierCV(), "three", "alpha="),
    (LogisticRegressionCV(Cs=(0.1, 1.0), **FOLDS), "three", "C="),
    (BayesianRidge(tol=1e-10, max_iter=1000), "number", "precisions"),
    (LassoCV(alphas=(0.3, 0.6), **NET), "number", "alpha="),
    (ElasticNetCV(alphas=(0.3, 0.6), l1_ratio=(0.3, 0.8), **NET), "number", "l1_ratio="),
    (GridSearchCV(LOGISTIC, GRID, cv=3), "two", "the search chose are held fixed: C="),
    (RandomizedSearchCV(LOGISTIC, GRID, n_iter=2, cv=3, random_state=0), "two", "held fixed: C="),
    (make_pipeline(SCALER, GridSearchCV(make_pipeline(SCALER, LOGISTIC), {}, cv=3)), "two", "search"),
    (TunedThresholdClassifierCV(LOGISTIC, cv=3), "two", "the threshold"),
    (CalibratedClassifierCV(LOGISTIC, ensemble=False, cv=3), "two", "the calibration is held fixed"),
    (TransformedTargetRegressor(Ridge(), func=np.log, inverse_func=np.exp), "amounts", "transformer of the targets"),
    (make_pipeline(FeatureUnion([("a", SCALER), ("b", FunctionTransformer(np.abs))]), Ridge()), "number", "held"),
]  # fmt: skip


@pytest.mark.parametrize(("estimator", "task", "words"), CASES, ids=name)
def test_the_chosen_one_is_at_its_optimum_and_its_refits_are_predicted(estimator, task: str, words: str):
    y = TARGETS[task]
    problem = from_estimator(clone(estimator).fit(X[:N], y[:N]), X[:N], y[:N])
    assert float(problem.gradient().norm()) < 1e-3 * one_contribution(problem)
    assert re.search(words, " ".join(problem.terms.notes))
    verified = verify(Influence(problem), (X[N:], y[N:]), k=3, random=3)
    assert verified.top.pearson > 0.95  # first order
    scaled = "Scaler" in str(estimator)  # refits scale anew
    assert verified.estimator is not None
    assert verified.estimator < (1.0 if scaled else 1e-3)


def test_what_is_left_of_a_search_is_its_best_estimator():
    y = TARGETS["two"][:N]
    search = GridSearchCV(LOGISTIC, GRID, cv=3).fit(X[:N], y, sample_weight=WEIGHTS)
    problem = from_estimator(search, X[:N], y, sample_weight=WEIGHTS)
    plain = from_estimator(search.best_estimator_, X[:N], y, sample_weight=WEIGHTS)
    assert torch.equal(problem.theta, plain.theta)
    assert torch.equal(problem.l2, plain.l2)
    frozen = from_estimator(FrozenEstimator(search.best_estimator_), X[:N], y, sample_weight=WEIGHTS)
    assert torch.equal(frozen.theta, plain.theta)


def test_transformed_targets_are_asked_about_as_the_user_has_them():
    y = TARGETS["amounts"]
    model = TransformedTargetRegressor(Ridge(), func=np.log, inverse_func=np.exp).fit(X[:N], y[:N])
    problem = from_estimator(model, X[:N], y[:N])
    loss = 0.5 * (np.log(model.predict(X[N:])) - np.log(y[N:])) ** 2
    assert_close_per_row(problem.evaluate((X[N:], y[N:])), loss, 1e-9)


@pytest.mark.parametrize(
    ("estimator", "words"),
    [
        (GridSearchCV(LOGISTIC, GRID, cv=3, refit=False), "keeps no fitted estimator.*best_params_"),
        (TunedThresholdClassifierCV(LOGISTIC, cv=0.7, refit=False), "use refit=True"),
        (CalibratedClassifierCV(LOGISTIC, cv=3), "fit it with ensemble=False"),
        (
            LogisticRegressionCV(
                Cs=(0.1,),
                cv=3,
                refit=False,
                l1_ratios=(0,),
                scoring="neg_log_loss",
                use_legacy_attributes=False,
                **TIGHT,
            ),
            "use refit=True",
        ),
    ],
    ids=name,
)
def test_wrappers_that_hide_their_training_rows(estimator, words: str):
    y = TARGETS["two"][:N]
    with pytest.raises(ValueError, match=words):
        from_estimator(estimator.fit(X[:N], y), X[:N], y)

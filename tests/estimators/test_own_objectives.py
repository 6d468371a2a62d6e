"""Boosted trees of objectives that the user wrote: gradient and second derivative, as the libraries take them."""

from typing import Any

import numpy as np
import pytest

import upweight as uw
from tests.support.boosters import TARGETS, WEIGHTS, N, X, follows_weights, numbered, read
from upweight.measures import prediction

xgboost = pytest.importorskip("xgboost")
lightgbm = pytest.importorskip("lightgbm")

NUMBERED = numbered(TARGETS)


def bounded(y: Any, score: Any) -> tuple[Any, Any]:
    """A loss of regressions whose second derivative is not the slope of its gradient, as people write them."""
    off = np.tanh(score - y)
    return off, 1 - 0.8 * off**2


def logistic(y: Any, score: Any) -> tuple[Any, Any]:
    p = 1 / (1 + np.exp(-score))
    return p - y, p * (1 - p)


def weighed(y: Any, score: Any, sample_weight: Any) -> tuple[Any, Any]:
    gradient, hessian = logistic(y, score)
    return gradient * sample_weight, hessian * sample_weight


XGBOOST = {"n_estimators": 5, "max_depth": 3, "reg_lambda": 0.7, "learning_rate": 0.3}
LIGHTGBM = {"n_estimators": 5, "num_leaves": 6, "reg_lambda": 0.7, "verbose": -1}
MODELS = {
    "XGBoost, a number": (xgboost.XGBRegressor(objective=bounded, **XGBOOST), "number"),
    "XGBoost, two classes": (xgboost.XGBClassifier(objective=logistic, **XGBOOST), "two"),
    "LightGBM, a number": (lightgbm.LGBMRegressor(objective=bounded, **LIGHTGBM), "number"),
    "LightGBM, two classes": (lightgbm.LGBMClassifier(objective=logistic, **LIGHTGBM), "two"),
}


@pytest.mark.parametrize(("model", "task"), MODELS.values(), ids=MODELS)
def test_answers_follow_the_weights(model: Any, task: str) -> None:
    problem, test = read(model, X, task, targets=NUMBERED)
    follows_weights(problem, test, prediction if task == "number" else None)
    assert any("objective of one's own" in note for note in problem.terms.notes)
    removed = uw.Influence(problem).of_removal([range(5)], test)
    assert removed.recomputed is not None


@pytest.mark.parametrize(
    "model",
    [
        xgboost.XGBClassifier(objective=weighed, **XGBOOST),
        lightgbm.LGBMClassifier(objective=weighed, **LIGHTGBM),
    ],
    ids=["XGBoost", "LightGBM"],
)
def test_an_objective_that_takes_weights_is_weighed(model: Any) -> None:
    problem, test = read(model, X, "two", WEIGHTS, NUMBERED)
    np.testing.assert_allclose(problem.weights.numpy(), WEIGHTS.astype(np.float32), rtol=1e-6)
    follows_weights(problem, test)


def test_it_answers_as_the_librarys_own_objective() -> None:
    own, test = read(
        xgboost.XGBClassifier(objective=logistic, base_score=0.5, **XGBOOST), X, "two", targets=NUMBERED
    )
    named, _ = read(xgboost.XGBClassifier(base_score=0.5, **XGBOOST), X, "two", targets=NUMBERED)
    ours, theirs = (uw.Influence(problem).on_loss(test).values for problem in (own, named))
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5 * float(theirs.abs().max()))


def test_an_objective_that_looks_at_all_rows_is_refused() -> None:
    def centred(y: Any, score: Any) -> tuple[Any, Any]:
        return score - y - np.mean(score - y), np.ones_like(y)

    y = NUMBERED["number"][:N]
    model = xgboost.XGBRegressor(objective=centred, **XGBOOST).fit(X[:N], y)
    with pytest.raises(ValueError, match="a row's numbers depend on other rows"):
        uw.from_estimator(model, X[:N], y)


def test_several_outputs_are_refused() -> None:
    def softmax(y: Any, score: Any) -> tuple[Any, Any]:
        p = np.exp(score - score.max(1, keepdims=True))
        p /= p.sum(1, keepdims=True)
        return p - np.eye(3)[y.astype(int)], p * (1 - p)

    model = xgboost.XGBClassifier(objective=softmax, **XGBOOST).fit(X[:N], NUMBERED["three"][:N])
    with pytest.raises(ValueError, match="an objective of your own of 3 outputs"):
        uw.from_estimator(model, X[:N], NUMBERED["three"][:N])

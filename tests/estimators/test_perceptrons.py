"""Perceptrons of scikit-learn are networks with the same weights and objective, in the user's own terms."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import log_loss
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from upweight import Influence, explain, from_estimator, verify

RNG = np.random.default_rng(0)
X = pd.DataFrame(RNG.normal(size=(90, 4)), columns=list("abcd"))
SCORE = (X.a - X.b + 0.5 * X.c * X.d + RNG.normal(size=90)).to_numpy()
TARGETS: dict[str, Any] = {
    "two": np.where(SCORE > 0, "yes", "no"),
    "three": np.array(["low", "mid", "high"])[np.digitize(SCORE, [-0.7, 0.7])],
    "number": SCORE,
    "numbers": np.stack([SCORE, SCORE**2], 1),
}
TIGHT: dict[str, Any] = {
    "solver": "lbfgs",
    "tol": 1e-12,
    "max_iter": 20_000,
    "max_fun": 10**6,
    "random_state": 0,
}


pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


def made(task: str, **settings: Any) -> Any:
    kind = MLPRegressor if task.startswith("number") else MLPClassifier
    model = kind(hidden_layer_sizes=(5,), activation="tanh", alpha=5.0, **{**TIGHT, **settings})
    return make_pipeline(StandardScaler(), model).fit(X, TARGETS[task])


@pytest.mark.parametrize("task", ["two", "three", "number", "numbers"])
def test_the_objective_is_the_estimators_own(task):
    model, y = made(task), TARGETS[task]
    problem = from_estimator(model, X, y)
    assert problem.keep == "total"
    assert float(problem.gradient().norm()) < 1e-2 * float(
        problem.train_gradients(torch.arange(90)).norm(dim=1).max()
    )
    test = X[:20], y[:20]
    found = float(problem.evaluate(test).mean())
    if task.startswith("number"):
        assert found == pytest.approx(((model.predict(X[:20]) - y[:20]) ** 2).mean() / 2, rel=1e-9)
    else:
        assert found == pytest.approx(
            log_loss(y[:20], model.predict_proba(X[:20]), labels=model.classes_), rel=1e-9
        )
    at = problem.train_losses().mean() + problem.penalty.value(problem.theta)
    assert float(at) == pytest.approx(model[-1].loss_, rel=1e-6)


@pytest.mark.parametrize("task", ["two", "number"])
def test_effects_are_those_of_training_further(task):
    y = TARGETS[task]
    influence = Influence(from_estimator(made(task), X, y))
    test = X[:6], y[:6]
    found = verify(influence, test, k=3, random=4)
    assert found.top.pearson > 0.9
    assert 0.7 < found.top.slope < 1.4
    assert "many optima" in repr(influence.problem.terms.notes)
    assert "removal effect" in repr(explain(influence, (X[:1], y[:1]), k=2))


def test_batches_set_the_penalty_and_what_cannot_be_read_is_refused():
    adam = made("two", solver="adam", max_iter=5, batch_size=30)
    problem = from_estimator(adam, X, TARGETS["two"])
    assert problem.keep == "mean"
    assert float(problem.l2.max()) == pytest.approx(5.0 / 30)
    assert int((problem.l2 == 0).sum()) == 6
    stopped = MLPClassifier((3,), early_stopping=True, max_iter=3).fit(X, TARGETS["two"])
    with pytest.raises(ValueError, match="early_stopping=False"):
        from_estimator(stopped, X, TARGETS["two"])
    with pytest.raises(ValueError, match="about linear models"):
        from_estimator(adam, X, TARGETS["two"], follow_scaling=True)
    several = MLPClassifier((3,), max_iter=3).fit(X, np.stack([SCORE > 0, SCORE > 1], 1))
    with pytest.raises(ValueError, match="several labels"):
        from_estimator(several, X, np.stack([SCORE > 0, SCORE > 1], 1))

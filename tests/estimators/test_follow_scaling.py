"""Scalers before the model are fitted anew in predicted removals: judged by refits of the whole pipeline."""

from typing import Any

import numpy as np
import pytest
import torch
from sklearn.compose import make_column_transformer
from sklearn.decomposition import PCA
from sklearn.linear_model import Lasso, LinearRegression, LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MaxAbsScaler, MinMaxScaler, OneHotEncoder, RobustScaler, StandardScaler
from sklearn.svm import SVC, LinearSVC

from tests.support.compare import assert_close_per_row
from upweight import Influence, from_estimator, verify

TIGHT: dict[str, Any] = {"tol": 1e-12, "max_iter": 100_000}
RNG = np.random.default_rng(0)
X = RNG.standard_t(3, (80, 4)) * [1.0, 10.0, 0.1, 1.0] + [0.0, 5.0, 0.0, 2.0]
Z = X / [1.0, 10.0, 0.1, 1.0]
Y = Z @ [1.0, -0.5, 0.7, 0.0] + RNG.normal(size=80)
THREE = np.digitize(Y, [-1.0, 1.0])
FAR = int(np.abs(Z - Z.mean(0)).max(1).argmax())
ROWS = torch.tensor([0, 7, FAR])
MIXED = make_column_transformer(
    (make_pipeline(StandardScaler()), [0, 1]), (MinMaxScaler(), [2]), ("passthrough", [3])
)
CASES = [
    (StandardScaler(), LogisticRegression(C=0.1, solver="newton-cholesky", **TIGHT), Y > 0),
    (StandardScaler(), LogisticRegression(C=0.1, class_weight="balanced", **TIGHT), THREE),
    (MinMaxScaler(), Ridge(alpha=3.0), Y),
    (MaxAbsScaler(), Ridge(alpha=3.0, fit_intercept=False), Y),
    (StandardScaler(with_mean=False), Ridge(alpha=3.0, fit_intercept=False), Y),
    (StandardScaler(), Lasso(alpha=0.05, **TIGHT), Y),
    (MIXED, Ridge(alpha=30.0), Y),
    (StandardScaler(), LinearRegression(), Y),
]


@pytest.mark.parametrize(("scaler", "model", "y"), CASES, ids=lambda given: type(given).__name__)
def test_removals_are_refits_of_the_whole_pipeline(scaler, model, y):
    estimator = make_pipeline(scaler, model).fit(X, y)
    test = X[:10], y[:10]
    problem, everything = from_estimator(estimator, X, y, follow_scaling=True), torch.arange(80)
    refit, base = problem.cache["own estimator"], problem.evaluate(test)
    sets = [*ROWS.split(1), torch.arange(10, 20)]
    kept = [everything[~torch.isin(everything, rows)] for rows in sets]
    actual = torch.stack([refit(left).evaluate(test) - base for left in kept])
    again = torch.stack([problem.without(rows).minimised().evaluate(test) - base for rows in sets])
    assert_close_per_row(again, actual, 1e-4)
    held = from_estimator(estimator, X, y)
    if bool((problem.l2 > 0).any()):
        wrong = held.without(ROWS[2:]).minimised().evaluate(test) - base
        assert float((wrong - actual[2]).norm()) > 0.02 * float(actual[2].norm()), "it makes no difference"
    for index in (ROWS, ROWS[:0]):
        sets_now = [*index.split(1)] if len(index) else [index]
        thetas = problem.theta.expand(len(sets_now), -1)
        found = problem.gradients_without(sets_now), problem.gradients_without(sets_now, thetas)
        assert float((found[0] - found[1]).abs().max()) < 1e-9
    influence = Influence(problem)
    newton = influence.of_removal(sets, test).newton
    assert newton is not None
    assert_close_per_row(newton.T[:-1], actual[:-1], 0.05)
    each = influence.of_each_removal(test).effect()[:, ROWS]
    assert_close_per_row(each.T[:-1], actual[:2], 0.1)
    assert from_estimator(estimator, X, y).fingerprint() != problem.fingerprint()


def test_what_cannot_be_followed_is_refused():
    for steps, words in (
        ((PCA(2), Ridge()), "there is none"),
        ((StandardScaler(), PCA(2), Ridge()), "there is none"),
        ((RobustScaler(), Ridge()), "there is none"),
        ((StandardScaler(), Ridge(fit_intercept=False)), "needs an intercept without a penalty"),
        ((StandardScaler(), SVC(gamma=0.1)), "a kernel is not"),
        ((StandardScaler(), LinearSVC(C=0.1, dual=False)), "needs an intercept without a penalty"),
    ):
        y = Y if isinstance(steps[-1], Ridge) else (Y > 0).astype(int)
        estimator = make_pipeline(*steps).fit(X, y)
        with pytest.raises(ValueError, match=words):
            from_estimator(estimator, X, y, follow_scaling=True)
    with pytest.raises(ValueError, match="there is none"):
        from_estimator(Ridge().fit(X, Y), X, Y, follow_scaling=True)
    followed = from_estimator(
        make_pipeline(StandardScaler(), LogisticRegression()).fit(X, Y > 0), X, Y > 0, follow_scaling=True
    )
    with pytest.raises(ValueError, match="leave follow_scaling out"):
        Influence(followed).of_removal([[0]], (X[:2], Y[:2] > 0), guarantee=1)


def test_verify_says_what_holding_the_transformers_costs():
    columns = make_column_transformer((OneHotEncoder(), [0]), (StandardScaler(), [1, 2, 3]))
    table = np.column_stack([np.arange(80) % 3, Z[:, 1:]])
    estimator = make_pipeline(columns, Ridge(alpha=30.0)).fit(table, Y)
    costs = []
    for follow in (False, True):
        influence = Influence(from_estimator(estimator, table, Y, follow_scaling=follow))
        found = verify(influence, (table[:3], Y[:3]), k=5, random=3, pipeline=True, own=0)
        assert found.whole is not None
        lost = found.table["actual"] - found.table["whole pipeline"]
        costs.append(np.linalg.norm(lost) / np.linalg.norm(found.table["whole pipeline"]))
        assert f"what is held fixed costs {costs[-1]:.1%}" in str(found)
    assert costs[0] > 0.02 > 1e-4 > costs[1]
    plain = Influence(from_estimator(Ridge().fit(X, Y), X, Y).changed(l2=0.1))
    with pytest.raises(ValueError, match="only a problem of from_estimator has"):
        verify(plain, (X[:3], Y[:3]), k=3, pipeline=True)

"""Certificates against every small set of rows, found sets against refits, and what is refused."""

from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.datasets import load_diabetes
from sklearn.linear_model import LinearRegression

import upweight as uw
from experiments.exhaustive import KINDS, Case, Fit, case_of, fit, sets


def influence_of(case: Case) -> uw.Influence:
    l2 = case.penalty / len(case.X)
    problem = uw.LinearProblem.fit(
        case.X, case.y, loss=uw.Squared(), weights=case.w, l2=l2, keep="total" if l2 else "mean"
    )
    return uw.Influence(problem)


def holds(name: str, now: Fit, side: float) -> bool:
    """Whether the conclusion holds, by the textbook."""
    if np.isnan(now.estimate):
        return False
    if name == "sign":
        return side * now.estimate > 0
    t = stats.t.ppf(0.9, max(now.freedom, 1)) * now.error
    return side * now.estimate - t > 0 if name == "significant" else side * now.estimate + t > 0


CONCLUSIONS = {
    "sign": uw.Sign(0),
    "significant": uw.Significant(0, level=0.2),
    "not reversed": uw.NotReversed(0, level=0.2),
}


@pytest.mark.parametrize("name", CONCLUSIONS)
@pytest.mark.parametrize("kind", KINDS)
def test_no_set_undercuts_the_certificate(kind: str, name: str) -> None:
    """Theorem of docs/certificates.md: every set of at most as many units, refitted."""
    if kind == "ridge" and name != "sign":
        return
    certified = smallest = 0
    for seed in range(5):
        case = case_of(kind, seed)
        rows = np.arange(len(case.X))
        start = fit(case, rows)
        side = 1.0 if start.estimate >= 0 else -1.0
        if not holds(name, start, side):
            with pytest.raises(ValueError, match="does not hold to begin with"):
                uw.robustness(influence_of(case), CONCLUSIONS[name], groups=case.groups)
            continue
        found = uw.robustness(influence_of(case), CONCLUSIONS[name], groups=case.groups)
        np.testing.assert_allclose(found.estimate, start.estimate, rtol=1e-6)
        for k in range(1, min(found.certified, 3) + 1):
            for T in sets(case.members, k):
                assert holds(name, fit(case, np.setdiff1d(rows, T)), side), (seed, k, T)
        certified += found.certified
        if found.rows is not None:
            after = fit(case, np.setdiff1d(rows, found.rows.numpy()))
            assert found.after is not None
            np.testing.assert_allclose(found.after, after.estimate, rtol=1e-5, atol=1e-8)
            assert not holds(name, after, side)
            assert found.found is not None
            assert found.certified < found.found
            smallest += found.smallest
    assert certified + smallest > 0


def test_diabetes_has_the_numbers_that_were_published_with_it() -> None:
    X, y = load_diabetes(return_X_y=True, as_frame=True)
    influence = uw.Influence(uw.from_estimator(LinearRegression().fit(X, y), X, y))
    found = uw.robustness(influence, "s6")
    assert (found.certified, found.found, found.smallest) == (5, 6, True)
    rest = LinearRegression().fit(X.drop(found.names), y.drop(found.names))
    assert rest.coef_[9] < 0 < found.estimate
    assert found.after is not None
    np.testing.assert_allclose(found.after, rest.coef_[9], rtol=1e-8)
    assert "No smaller set does it" in repr(found)
    assert "Proven" in found._repr_html_()


def test_a_mean_and_a_gap_are_conclusions_too() -> None:
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(30, 2)), rng.normal(size=30)
    influence = uw.Influence(uw.LinearProblem.fit(X, y, loss=uw.Squared()))
    theta = np.linalg.lstsq(X, y, rcond=None)[0]
    found = uw.robustness(influence, uw.MeanPrediction(X[:5]))
    np.testing.assert_allclose(found.estimate, (X[:5] @ theta).mean())
    groups = np.array(["a", "b", "a", "b", "b"])
    found = uw.robustness(influence, uw.MeanPrediction(X[:5], groups=groups))
    np.testing.assert_allclose(
        found.estimate, (X[:5] @ theta)[groups == "b"].mean() - (X[:5] @ theta)[groups == "a"].mean()
    )
    assert "gap" in repr(found)
    with pytest.raises(ValueError, match="two groups"):
        uw.robustness(influence, uw.MeanPrediction(X[:5], groups=np.arange(5)))


def test_fixed_effects_that_leave_with_their_group_do_not_hide_the_coefficient() -> None:
    """A group that alone determines its own constant: what is asked stays determined, and is certified."""
    rng = np.random.default_rng(3)
    village = np.repeat(np.arange(8), 6)
    x = rng.normal(size=48)
    X = np.c_[x, np.eye(8)[village]]
    y = 0.4 * x + rng.normal(size=8)[village] + rng.normal(size=48)
    case = Case(X, y, np.ones(48), 0.0, village)
    influence = influence_of(case)
    found = uw.robustness(influence, 0, groups=village)
    assert found.certified >= 1
    for k in range(1, found.certified + 1):
        for T in sets(case.members, k):
            assert fit(case, np.setdiff1d(np.arange(48), T)).estimate * found.estimate > 0
    if found.rows is not None:
        assert fit(case, np.setdiff1d(np.arange(48), found.rows.numpy())).estimate * found.estimate <= 0
    alone = uw.robustness(influence, 1, groups=village)
    assert alone.certified == 0
    assert "alone" in alone.limit


@pytest.mark.parametrize("name", ["significant", "not reversed"])
def test_a_constant_that_leaves_with_its_group_takes_its_degree_of_freedom_along(name: str) -> None:
    confirmed = 0
    for seed in range(24):
        rng = np.random.default_rng(seed)
        village = np.repeat(np.arange(7), rng.integers(2, 5, 7))
        n = len(village)
        x = rng.normal(size=n)
        X = np.c_[x, np.eye(7)[village]]
        y = rng.uniform(0.2, 1.5) * x + rng.normal(size=7)[village] + rng.normal(size=n)
        case = Case(X, y, np.ones(n), 0.0, village)
        start = fit(case, np.arange(n))
        side = 1.0 if start.estimate >= 0 else -1.0
        if not holds(name, start, side):
            continue
        found = uw.robustness(influence_of(case), CONCLUSIONS[name], groups=village)
        assert "did not confirm" not in found.limit
        for k in range(1, found.certified + 1):
            for T in sets(case.members, k):
                assert holds(name, fit(case, np.setdiff1d(np.arange(n), T)), side)
        if found.rows is not None:
            confirmed += 1
            assert not holds(name, fit(case, np.setdiff1d(np.arange(n), found.rows.numpy())), side)
    assert confirmed >= 2  # with so few groups hardly any reversal can be had


@pytest.mark.parametrize(
    ("change", "ask", "error", "words"),
    [
        ({}, "no such", ValueError, "there is no coefficient 'no such'"),
        ({}, 7, ValueError, "there is no coefficient 7"),
        ({"collinear": True}, 0, ValueError, "column 0, column 1 are collinear"),
        ({"l2": 0.1}, 0, ValueError, 'keep="total"'),
        ({"loss": uw.Huber(1.0)}, 0, TypeError, "least squares with one output"),
        ({"groups": np.zeros(20)}, 0, ValueError, "whole training set"),
        ({"groups": {"a": [0, 1]}}, 0, ValueError, "share out all 20 rows"),
    ],
)
def test_what_has_no_certificate_is_refused(
    change: dict[str, Any], ask: Any, error: type[Exception], words: str
) -> None:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(20, 3))
    if change.pop("collinear", False):
        X[:, 1] = 2 * X[:, 0]
    y, groups = rng.normal(size=20), change.pop("groups", None)
    theta = np.linalg.lstsq(X, y, rcond=None)[0]
    problem = uw.LinearProblem(X, y, theta, **{"loss": uw.Squared(), **change})
    with pytest.raises(error, match=words):
        uw.robustness(uw.Influence(problem), ask, groups=groups)


def test_significance_of_a_penalised_fit_and_levels_are_refused() -> None:
    X, y = torch.eye(4, 2).double(), torch.arange(4.0)
    problem = uw.LinearProblem.fit(X, y, loss=uw.Squared(), l2=0.1, keep="total")
    with pytest.raises(ValueError, match="no meaning with a penalty"):
        uw.robustness(uw.Influence(problem), uw.Significant(0))
    for kind in (uw.Significant, uw.NotReversed):
        with pytest.raises(ValueError, match="level must be between"):
            kind(0, level=5.0)
    problem = uw.LinearProblem.fit(torch.eye(2).double(), torch.ones(2), loss=uw.Squared())
    with pytest.raises(ValueError, match="no degrees of freedom"):
        uw.robustness(uw.Influence(problem), uw.Significant(0))
    problem = uw.LinearProblem.fit(torch.ones(3, 1).double(), torch.ones(3), loss=uw.Squared())
    with pytest.raises(ValueError, match="fits every row exactly"):
        uw.robustness(uw.Influence(problem), uw.Significant(0))


def test_a_row_that_alone_determines_the_coefficient_is_named() -> None:
    X = torch.tensor([[0.0, 1], [0, 1], [0, 1], [5, 1]]).double()
    problem = uw.LinearProblem.fit(X, torch.tensor([1.0, 2, 1, 4]), loss=uw.Squared())
    found = uw.robustness(uw.Influence(problem), 0)
    assert found.certified == 0
    assert "The data without 3 alone" in found.limit


def test_huber_is_not_taken_for_least_squares_where_no_residual_is_outside() -> None:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(30, 2))
    y = X[:, 0] + 0.5 * rng.normal(size=30)
    problem = uw.LinearProblem.fit(X, y, loss=uw.Huber(3.0))
    assert float(problem.evaluate((X, y), uw.measures.prediction).sub(torch.from_numpy(y)).abs().max()) < 3
    answers = uw.Influence(problem)
    for asked in (lambda: uw.robustness(answers, 0), lambda: uw.removal_receipt(answers, [0])):
        with pytest.raises(TypeError, match="is for least squares"):
            asked()

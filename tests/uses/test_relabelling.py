"""New labels within a box: every small set with every corner of the box, refits of what was found, what is refused."""

from itertools import product
from typing import Any

import numpy as np
import pandas as pd
import pytest
import statsmodels.formula.api as smf
import torch
from sklearn.linear_model import LogisticRegression, Ridge

import upweight as uw
from experiments.exhaustive import KINDS, Case, case_of, fit, sets
from tests.estimators.test_absorbed import Study
from tests.uses.test_robustness import influence_of

CORNERS = 6
"""Rows up to which every choice of labels is tried; of more rows some drawn at random."""


def other_labels(case: Case, rows: np.ndarray, box: tuple[float, float], seed: int) -> np.ndarray:
    """Labels of all rows (k, n), those of some rows lowest, highest or their own in every way, and some in between."""
    rng = np.random.default_rng(seed)
    if len(rows) <= CORNERS:
        choices = np.array(list(product(range(3), repeat=len(rows))))
    else:
        choices = rng.integers(0, 3, (100, len(rows)))
    m = len(choices)
    ends = np.stack(
        [np.full((m, len(rows)), box[0]), np.full((m, len(rows)), box[1]), case.y[None, rows].repeat(m, 0)]
    )
    found = case.y[None].repeat(m + 5, 0)
    found[:m, rows] = np.take_along_axis(ends, choices[None], 0)[0]
    found[m:, rows] = rng.uniform(*box, (5, len(rows)))
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_no_labels_of_fewer_rows_do_it_and_those_found_do(kind: str) -> None:
    """Theorem of docs/certificates.md, (33): textbook fits of every set of certified units, in every corner."""
    found_sets = tried = 0
    for seed in range(4):
        case = case_of(kind, seed)
        every = np.arange(len(case.X))
        box = (float(np.quantile(case.y, 0.2)), float(np.quantile(case.y, 0.8)))  # labels outside may stay
        side = np.sign(fit(case, every).estimate)
        found = uw.robustness(influence_of(case), 0, groups=case.groups, relabel=box)
        k = min(found.certified, 2)
        for T in sets(case.members, k) if k else ():
            for y in other_labels(case, T, box, seed):
                assert side * fit(case._replace(y=y), every).estimate > 0, (seed, T)
                tried += 1
        if found.rows is None:
            assert found.certified == found.units
            continue
        assert found.smallest
        assert found.labels is not None
        assert found.after is not None
        y = case.y.copy()
        y[found.rows.numpy()] = found.labels.numpy()
        after = fit(case._replace(y=y), every)
        assert side * after.estimate <= 0
        assert set(found.labels.tolist()) <= set(box)
        np.testing.assert_allclose(found.after, after.estimate, rtol=1e-5, atol=1e-8)
        found_sets += 1
    assert tried > 0
    assert found_sets > 0


def test_sorting_finds_what_trying_every_set_finds() -> None:
    for seed in range(10):
        rng = np.random.default_rng(seed)
        X = np.c_[rng.normal(size=9), np.ones(9)]
        y = (X[:, 0] + rng.normal(size=9) > 0).astype(float)
        case = Case(X, y, np.ones(9), 0.0, None)
        side = np.sign(fit(case, np.arange(9)).estimate)
        if not side:
            continue
        found = uw.robustness(influence_of(case), 0, relabel=(0, 1))
        flips = [np.flatnonzero(bits) for bits in product((0, 1), repeat=9)]
        fewest = min(
            len(rows)
            for rows in flips
            if side
            * fit(case._replace(y=np.where(np.isin(np.arange(9), rows), 1 - y, y)), np.arange(9)).estimate
            <= 0
        )
        assert (found.found, found.certified) == (fewest, fewest - 1)
        assert found.first_order == fewest


def test_a_sum_that_meets_the_bar_exactly_is_decided_by_a_refit() -> None:
    y = torch.tensor([1.0, 1, 0, 0, 0, 0])
    problem = uw.LinearProblem.fit(torch.ones(6, 1), y, loss=uw.Squared())
    found = uw.robustness(uw.Influence(problem), uw.Sign(0, bar=2 / 3), relabel=(0, 1))
    assert found.certified == 1
    assert found.found in (2, 3)  # with two more of six the mean is the bar, but for rounding
    alone = uw.robustness(uw.Influence(problem), uw.Sign(0, bar=2 / 3), relabel=(0, 1), most=1)
    assert (alone.certified, alone.found) == (1, None)


def test_other_models_and_words() -> None:
    rng = np.random.default_rng(0)
    n = 40
    table = pd.DataFrame({"x": rng.normal(size=n)})
    table["y"] = 0.3 * table.x + rng.normal(size=n)
    results = smf.wls("y ~ x", table, weights=rng.uniform(0.5, 2, n)).fit()
    found = uw.robustness(uw.Influence(uw.from_results(results)), "x", relabel=(-2, 2))
    assert found.rows is not None
    assert found.labels is not None
    moved = table.assign(y=table.y.where(~table.index.isin(found.rows.tolist())))
    moved.loc[found.rows.tolist(), "y"] = found.labels.numpy()
    again = smf.wls("y ~ x", moved, weights=results.model.weights).fit()
    assert [found.after, found.error_after] == pytest.approx([again.params.x, again.bse.x], rel=1e-8)
    assert [found.estimate, found.error] == pytest.approx([results.params.x, results.bse.x], rel=1e-8)
    assert "with other labels for" in repr(found)
    assert "First order" not in repr(found)
    mean = uw.robustness(
        uw.Influence(uw.from_results(results)), uw.MeanPrediction(table[["x"]], bar=-3.0), relabel=(-2, 2)
    )
    assert mean.found is None
    assert mean.certified == n
    assert "no labels from -2 to 2 that change it" in repr(mean)


def test_ridge_that_divides_by_the_rows_is_certified_too() -> None:
    """The number of rows does not move, so that the penalty stays by either convention."""
    rng = np.random.default_rng(1)
    X, y = rng.normal(size=(30, 3)), rng.normal(size=30)
    problem = uw.LinearProblem.fit(X, y, loss=uw.Squared(), l2=0.1, keep="mean", intercept=True)
    found = uw.robustness(uw.Influence(problem), 0, relabel=(-3, 3))
    assert found.rows is not None
    assert found.labels is not None
    assert found.smallest
    y[found.rows.numpy()] = found.labels.numpy()
    assert found.after == pytest.approx(Ridge(alpha=3.0).fit(X, y).coef_[0], rel=1e-6)


def test_what_is_not_exact_is_refused() -> None:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(30, 2))
    y = X[:, 0] + rng.normal(size=30)
    linear = uw.Influence(uw.LinearProblem.fit(X, y, loss=uw.Squared()))
    logistic = LogisticRegression(C=1.0).fit(X, y > 0)
    cases: list[tuple[Any, Any, Any, type[Exception], str]] = [
        (linear, uw.Significant(0), (0, 1), ValueError, "ask about the sign"),
        (linear, 0, (1, 0), ValueError, "the lowest and the highest label"),
        (linear, 0, (0, np.inf), ValueError, "the lowest and the highest label"),
        (uw.Influence(uw.from_estimator(logistic, X, y > 0)), 0, (0, 1), TypeError, "for least squares"),
        (
            uw.Influence(uw.LinearProblem.fit(X, y, loss=uw.Huber(50.0))),
            0,
            (0, 1),
            TypeError,
            "not for Huber",
        ),
    ]
    for influence, asked, box, error, words in cases:
        with pytest.raises(error, match=words):
            uw.robustness(influence, asked, relabel=box)


def test_labels_beside_an_offset_are_the_users() -> None:
    rng = np.random.default_rng(2)
    table = pd.DataFrame({"x": rng.normal(size=40), "shift": 5 * rng.normal(size=40)})
    table["y"] = table["shift"] + 0.3 * table.x + rng.normal(size=40)
    table["y"] = table.y.clip(-4, 4)
    results = smf.glm("y ~ x", table, offset=table["shift"]).fit()
    found = uw.robustness(uw.Influence(uw.from_results(results)), "x", relabel=(-4, 4))
    assert found.smallest
    assert found.rows is not None
    assert found.labels is not None
    moved = table.assign(y=table.y)
    moved.loc[found.rows.tolist(), "y"] = found.labels.numpy()
    again = smf.glm("y ~ x", moved, offset=table["shift"]).fit()
    assert found.after == pytest.approx(again.params.x, rel=1e-6)
    assert found.after * results.params.x <= 0


def test_absorbed_effects_take_new_labels_and_instruments_do_not() -> None:
    study = Study(seed=1, effects=2, weighted=True)
    found = uw.robustness(uw.Influence(study.problem()), "a", relabel=(-4, 4))
    assert found.smallest
    assert found.rows is not None
    assert found.labels is not None
    study.y[found.rows.numpy()] = found.labels.numpy()
    assert found.after == pytest.approx(study.fit(np.arange(len(study.y)))[0][0], rel=1e-8)
    with pytest.raises(TypeError, match="leave relabel out"):
        uw.robustness(uw.Influence(study.problem(instruments=True)), "a", relabel=(-4, 4))

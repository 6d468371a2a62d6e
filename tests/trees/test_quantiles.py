"""Quantiles of the rows of leaves, as libraries take them, and models whose leaves are quantiles."""

import numpy as np
import pytest
import torch
from sklearn.ensemble import GradientBoostingRegressor, HistGradientBoostingRegressor

import upweight as uw
from upweight.trees.quantiles import ByUpperWeight, FirstToReach, Interpolated, Pinball, leaf_quantiles

from ..support.boosters import TARGETS, WEIGHTS, N, X, as_retrained, read
from ..support.compare import assert_close_per_row

HIST = {"max_iter": 8, "max_leaf_nodes": 5}
EXACT = {"n_estimators": 8, "max_depth": 2}
CASES = {
    "absolute, hist": HistGradientBoostingRegressor(loss="absolute_error", **HIST),
    "quantile, hist": HistGradientBoostingRegressor(loss="quantile", quantile=0.3, **HIST),
    "absolute": GradientBoostingRegressor(loss="absolute_error", **EXACT),
    "quantile, bags": GradientBoostingRegressor(
        loss="quantile", alpha=0.3, subsample=0.7, random_state=1, **EXACT
    ),
}
RULES = [Interpolated(0.3), FirstToReach(0.3), ByUpperWeight(0.3)]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: type(rule).__name__)
def test_leaves_have_the_quantile_of_their_own_rows(rule):
    draw = np.random.default_rng(0)
    left, where = draw.normal(size=60), draw.integers(0, 5, 60)
    where[where == 3] = 4
    w = np.ones(60) if isinstance(rule, Interpolated) else draw.uniform(0.3, 3, 60)
    w[:10] = 0
    given = torch.from_numpy(left), torch.from_numpy(w)
    found, empty = leaf_quantiles(rule, *given, torch.from_numpy(where), 5)
    assert empty.tolist() == [False, False, False, True, False]
    for i in (0, 1, 2, 4):
        own = torch.from_numpy(left[where == i]), torch.from_numpy(w[where == i])
        assert float(found[i]) == rule.of(*own)


def test_rules_agree_with_numpy():
    draw = np.random.default_rng(0)
    values, ones = np.sort(draw.normal(size=37)), np.ones(37)
    assert np.isclose(Interpolated(0.3).of_sorted(values, ones), np.quantile(values, 0.3))
    w = draw.integers(1, 4, 37).astype(float)
    many = np.repeat(values, w.astype(int))
    first = np.quantile(many, 0.3, method="inverted_cdf")
    assert FirstToReach(0.3).of_sorted(values, w) == first
    assert values[0] <= ByUpperWeight(0.3).of_sorted(values, w) <= values[-1]


def test_quantiles_without_weights_are_not_made_up_for_weights():
    with pytest.raises(ValueError, match="trained without weights"):
        Interpolated(0.5).of_sorted(np.arange(3.0), np.array([1.0, 2.0, 1.0]))


def test_the_loss_is_least_at_the_quantile():
    draw = torch.Generator().manual_seed(0)
    y = torch.randn(101, generator=draw).double()
    losses = [Pinball(0.3).value(eta.expand(101, 1), y[:, None]).sum() for eta in y]
    assert y[int(torch.stack(losses).argmin())] == y.sort().values[30]
    assert Pinball(0.5, 2.0).value(torch.tensor([[1.0]]), torch.tensor([[3.0]])) == 2


@pytest.mark.parametrize("weight", [None, WEIGHTS], ids=["", "weights"])
@pytest.mark.parametrize("name", CASES)
def test_leaves_fitted_without_rows_are_those_of_a_retraining_that_splits_as_before(name, weight):
    estimator = CASES[name]
    if "bags" in name:
        estimator = GradientBoostingRegressor(loss="quantile", alpha=0.3, **EXACT)  # other rows, other bags
    as_retrained(estimator, "amounts", weight)


@pytest.mark.parametrize("weight", [None, WEIGHTS], ids=["", "weights"])
@pytest.mark.parametrize("name", CASES)
def test_removals_are_answered_by_quantiles_computed_anew_and_nothing_else_is(name, weight):
    problem, test = read(CASES[name], X, "number", weight)
    influence = uw.Influence(problem)
    found = influence.of_removal({"few": [3, 8], "many": list(range(40))}, test)
    for g, rows in enumerate(([3, 8], list(range(40)))):
        w = problem.weights.clone()
        w[rows] = 0
        change = problem.refitted(w).evaluate(test) - problem.evaluate(test)
        assert_close_per_row(found.best[:, g], change, 1e-10)
    assert found.measure == "loss"
    one = (X[N : N + 1], TARGETS["number"][N : N + 1])
    for question in (influence.on_loss, influence.of_each_removal, lambda asked: influence.on_self()):
        with pytest.raises(ValueError, match=r"have no derivative.*of_removal"):
            question(one)

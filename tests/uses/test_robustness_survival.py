"""How fragile conclusions of Cox's model and of counts are: found sets and single rows against refits of their own."""

from itertools import combinations

import numpy as np
import pytest
import torch

import upweight as uw
from tests.support.compare import assert_close_per_row
from upweight.data.user_terms import Terms
from upweight.likelihood import Estimates, LikelihoodProblem, NegativeBinomial, PartialLikelihood
from upweight.uses.estimates_robustness import Fitted


def cox(seed: int, n: int = 60, effect: float = 0.5, l2: float = 0.0) -> LikelihoodProblem:
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, 2))
    time = np.ceil(rng.exponential(6 * np.exp(-effect * X[:, 0])))
    event, stratum = rng.uniform(size=n) < 0.7, rng.integers(0, 2, n)
    likelihood = PartialLikelihood(
        torch.from_numpy(X), torch.from_numpy(np.column_stack([time, event, stratum]).astype(float))
    )
    weights, terms = rng.uniform(0.5, 2, n), Terms(feature_names=("dose", "age"))
    start = LikelihoodProblem(likelihood, [0.0, 0.0], l2=l2, weights=weights, keep="total", terms=terms)
    return start.minimised()


def counts(seed: int, n: int = 60) -> LikelihoodProblem:
    rng = np.random.default_rng(seed)
    X = np.column_stack([np.ones(n), rng.normal(size=n)])
    y = np.column_stack([rng.negative_binomial(2, 2 / (2 + np.exp(X @ [1, 0.2]))), np.zeros(n)]).astype(float)
    likelihood = NegativeBinomial(torch.from_numpy(X), torch.from_numpy(y))
    terms = Terms(feature_names=("const", "dose"))
    start = LikelihoodProblem(likelihood, [1.0, 0.0, 0.5], weights=np.ones(n), keep="total", terms=terms)
    return start.minimised()


MADE = {"cox": lambda: cox(3), "counts": lambda: counts(1)}


def without(problem: LikelihoodProblem, rows) -> LikelihoodProblem:
    """A refit on the rows left, from the beginning."""
    kept = torch.tensor([i for i in range(problem.n) if i not in set(map(int, rows))])
    start = torch.tensor([1.0, 0.0, 0.5]) if problem.p == 3 else torch.zeros(2)
    return LikelihoodProblem(
        problem.likelihood.take(kept), start, weights=problem.weights[kept], keep="total", terms=Terms()
    ).minimised()


def holds(problem: LikelihoodProblem, asked, side: float) -> bool:
    place = {"dose": problem.p - 2 if problem.p == 3 else 0, "age": 1}[asked.coefficient]
    estimate = side * float(problem.theta[place])
    error = float(torch.linalg.inv(problem.hessian.matrix() * problem.n)[place, place]) ** 0.5
    bar = {"Sign": 0.0, "Significant": 1.959964, "NotReversed": -1.959964}[type(asked).__name__]
    return estimate > bar * error


@pytest.mark.parametrize("name", MADE)
def test_first_order_changes_are_derivatives_in_the_weights(name):
    problem = MADE[name]()
    direction = torch.eye(problem.p).double()[-1] + 0.3
    found = problem.reduced.estimates.first_order(direction)
    for row in (0, 7, 31):
        moved = []
        for step in (1e-4, -1e-4):
            weights = problem.weights.clone()
            weights[row] *= 1 + step
            there = problem.changed(weights=weights).minimised()
            variance = direction @ torch.linalg.inv(there.hessian.matrix() * there.n) @ direction
            moved.append(torch.stack([direction @ there.theta, variance]))
        expected = (moved[1] - moved[0]) / 2e-4  # less of the row
        assert_close_per_row(torch.stack([x[row] for x in found])[:, None], expected[:, None], 1e-5)


@pytest.mark.parametrize("asked", [uw.Sign("dose"), uw.Significant("dose"), uw.NotReversed("dose")])
def test_slopes_are_derivatives_of_the_margin(asked):
    problem = cox(3)
    side = float(problem.theta[0].sign())

    def search(problem: LikelihoodProblem) -> Fitted:
        units = list(torch.arange(problem.n).split(2))
        return Fitted(Estimates(problem), asked, torch.eye(2).double()[0], 0.0, side, units, torch.arange(60))

    found = search(problem).slopes()
    for unit in (0, 11):
        margins = []
        for step in (1e-4, -1e-4):
            weights = problem.weights.clone()
            weights[2 * unit : 2 * unit + 2] *= 1 + step
            margins.append(search(problem.changed(weights=weights).minimised()).margin())
        assert float(found[unit]) == pytest.approx((margins[0] - margins[1]) / 2e-4, rel=1e-5)


@pytest.mark.parametrize(
    ("name", "kind"),
    [("cox", uw.Sign), ("cox", uw.Significant), ("cox", uw.NotReversed), ("counts", uw.Significant)],
)
def test_the_set_that_is_found_changes_the_conclusion_and_no_single_row_does(name, kind):
    problem, asked = cox(3) if name == "cox" else counts(5), kind("dose")
    side = float(problem.theta[problem.p - 2 if problem.p == 3 else 0].sign())
    found = uw.robustness(uw.Influence(problem), asked)
    assert found.found is not None
    assert not holds(without(problem, found.rows), asked, side)
    place = problem.p - 2 if problem.p == 3 else 0
    assert found.after == pytest.approx(float(without(problem, found.rows).theta[place]), rel=1e-6)
    assert found.first_order is None or found.found <= found.first_order
    singles = [holds(without(problem, [row]), asked, side) for row in range(problem.n)]
    assert found.certified == int(all(singles))
    if not found.smallest:
        assert "No certificate of larger sets exists" in found.limit


def test_the_set_is_as_small_as_any_on_small_data():
    """Every smaller set is refitted."""
    for seed in range(6):
        problem = cox(seed, n=18)
        found = uw.robustness(uw.Influence(problem), "age")
        side = float(problem.theta[1].sign())
        assert found.found is not None
        for smaller in combinations(range(18), found.found - 1) if found.found <= 3 else ():
            assert holds(without(problem, smaller), uw.Sign("age"), side)


def test_subjects_leave_together():
    problem, subject = cox(3), np.arange(60) // 2
    found = uw.robustness(uw.Influence(problem), "dose", groups=subject)
    assert found.units == 30
    assert found.unit == "group"
    assert not holds(without(problem, found.rows), uw.Sign("dose"), float(problem.theta[0].sign()))
    assert sorted(set(subject[found.rows])) == sorted(found.names)


def test_what_has_no_answer_is_refused():
    influence = uw.Influence(cox(3))
    with pytest.raises(ValueError, match="no coefficient 'height': the model's columns are dose, age"):
        uw.robustness(influence, "height")
    with pytest.raises(ValueError, match="significance has no meaning with a penalty"):
        uw.robustness(uw.Influence(cox(3, l2=0.1)), uw.Significant("dose"))
    with pytest.raises(ValueError, match=r"does not hold to begin with .*significant.*the estimate is"):
        uw.robustness(uw.Influence(cox(3, effect=0.0)), uw.Significant("age"))
    with pytest.raises(TypeError, match="a mean prediction is asked of a linear model"):
        uw.robustness(influence, uw.MeanPrediction(np.zeros((2, 2))))

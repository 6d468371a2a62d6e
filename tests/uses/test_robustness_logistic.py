"""Certificates of logistic regression against refits without every small set of rows."""

import numpy as np
import pytest
import torch

import upweight as uw
from experiments.exhaustive import LOGISTIC, Case, kept_rows, logistic_case, logistic_fits
from upweight.linalg.units import Units
from upweight.uses.certificates import MomentBounds, _farthest
from upweight.uses.conclusions import Direction
from upweight.uses.removals import Question


def problem_of(case: Case) -> uw.LinearProblem | None:
    """The problem, None where the classes are separated."""
    l2 = case.penalty / len(case.X)
    try:
        return uw.LinearProblem.fit(case.X, case.y, loss=uw.Logistic(), weights=case.w, l2=l2, keep="total")
    except uw.NotConvergedError:
        return None


@pytest.mark.parametrize("kind", LOGISTIC)
def test_no_set_moves_further_than_its_bound(kind: str) -> None:
    """(11) to (15), (26), (27) of docs/certificates.md: the change of a coefficient, refitted without every set."""
    held = 0
    for seed in range(4):
        case = logistic_case(kind, seed)
        problem = problem_of(case)
        if problem is None:
            continue
        theta = logistic_fits(case, np.ones((1, len(case.X)), dtype=bool))[0]
        for sign in (1.0, -1.0):
            asked = Direction(sign * torch.eye(problem.p, dtype=torch.float64)[0], "it")
            question = Question.of(problem, asked, torch.arange(problem.n).split(1), 1.0)
            whole = question.whole
            bounds = MomentBounds(question, Units.of(whole.rows), whole.rows @ question.direction, 3, 1 << 20)
            for k, most in enumerate(bounds.change.tolist()[: 3 if problem.n < 20 else 2], 1):
                if most == np.inf:
                    continue
                without = logistic_fits(case, kept_rows(problem.n, k))
                assert not np.isnan(without).any()  # the optimum exists without every set
                assert (sign * (theta[0] - without[:, 0])).max() <= most
                held += 1
    assert held > 1 or kind == "near-separable"


@pytest.mark.parametrize("kind", LOGISTIC)
def test_no_set_undercuts_the_certificate_of_a_sign(kind: str) -> None:
    for seed in range(20, 22):
        case = logistic_case(kind, seed)
        problem = problem_of(case)
        if problem is None:
            continue
        found = uw.robustness(uw.Influence(problem), 0)
        for k in range(1, min(found.certified, 2) + 1):
            without = logistic_fits(case, kept_rows(problem.n, k))
            assert (without[:, 0] * found.estimate > 0).all()
        if found.rows is not None:
            kept = np.ones((1, problem.n), dtype=bool)
            kept[0, found.rows.numpy()] = False
            assert found.after is not None
            np.testing.assert_allclose(logistic_fits(case, kept)[0, 0], found.after, rtol=1e-5, atol=1e-7)
            assert found.after * found.estimate <= 0


def test_a_flip_set_says_what_is_proven() -> None:
    case = logistic_case("weak", 3, n=60)
    problem = problem_of(case)
    assert problem is not None
    influence = uw.Influence(problem)
    row = problem.outputs()[:, 0].abs().argsort()[:1]
    found = uw.flip_set(influence, problem.train_batch(row))
    assert found.rows is not None
    assert found.certified is not None
    assert found.certified < len(found.rows)
    sign = case.X[row.numpy()] @ problem.theta.numpy()
    for k in range(1, min(found.certified, 2) + 1):
        assert ((logistic_fits(case, kept_rows(60, k)) @ case.X[row.numpy()].T) * sign > 0).all()
    assert "proven" in repr(found) or "no smaller set does" in repr(found)
    assert uw.flip_set(influence, problem.train_batch(row), relabel=True).certified is None
    assert uw.flip_set(influence, problem.train_batch(row), certify=False).certified is None


def test_a_certified_flip_set_is_a_smallest_one_by_brute_force() -> None:
    smallest = 0
    for seed in range(5):
        case = logistic_case("ridge", seed, n=14)
        problem = problem_of(case)
        assert problem is not None
        for row in problem.outputs()[:, 0].abs().argsort()[:3].split(1):
            found = uw.flip_set(uw.Influence(problem), problem.train_batch(row))
            if not found.smallest:
                continue
            assert found.rows is not None
            sign = case.X[row.numpy()] @ problem.theta.numpy()
            for k in range(1, len(found.rows)):
                assert ((logistic_fits(case, kept_rows(14, k)) @ case.X[row.numpy()].T) * sign > 0).all()
            smallest += 1
    assert smallest > 1


def test_rows_of_high_leverage_are_enumerated() -> None:
    """(17): one row with much leverage empties the bound of all; refits of a few rows certify one."""
    case = logistic_case("weak", 5, n=60)
    X = case.X.copy()
    X[0] *= 12
    case = case._replace(X=X, penalty=0.05)
    problem = problem_of(case)
    assert problem is not None
    found = uw.robustness(uw.Influence(problem), 0)
    without = logistic_fits(case, kept_rows(60, 1))[:, 0]
    assert (found.certified >= 1) == bool((without * found.estimate > 0).all())
    if found.certified == 1:
        assert "refits of" in found.limit


def test_separated_classes_are_said() -> None:
    X = torch.arange(-4.0, 4.0).double()[:, None] + 0.5
    problem = uw.LinearProblem(X, (X[:, 0] > 0).long(), [1.0], loss=uw.Logistic())
    with pytest.raises(uw.NotConvergedError, match="separat"):
        uw.robustness(uw.Influence(problem), 0)


def test_significance_of_a_classifier_is_refused() -> None:
    problem = problem_of(logistic_case("weak", 3))
    assert problem is not None
    with pytest.raises(ValueError, match="least squares alone"):
        uw.robustness(uw.Influence(problem), uw.Significant(0))


def test_the_way_to_the_minimum_is_bounded_by_the_solution_of_its_equation() -> None:
    """(26): R' = cosh(R) s + sinh(R) L from 0, by steps of Runge and Kutta; it needs less than (12)."""
    step, reach = torch.tensor([0.05, 0.3, 0.4, 0.05]).double(), torch.tensor([0.2, 0.5, 0.8, 1.5]).double()

    def slope(R: torch.Tensor) -> torch.Tensor:
        return R.cosh() * step + R.sinh() * reach

    R, h = torch.zeros(4).double(), 1e-3
    for _ in range(1000):
        one = slope(R)
        two = slope(R + h / 2 * one)
        three = slope(R + h / 2 * two)
        R = R + h / 6 * (one + 2 * two + 2 * three + slope(R + h * three))
    torch.testing.assert_close(_farthest(step, reach), R, rtol=1e-7, atol=0.0)
    assert not _farthest(reach, reach).isfinite().any()

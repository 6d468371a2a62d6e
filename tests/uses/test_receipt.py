"""Receipts of deletions: the certified distance against retraining, and what the hashes cover."""

import hashlib
import json

import numpy as np
import pytest
import torch

import upweight as uw
from experiments.exhaustive import LOGISTIC, case_of, fit, logistic_case, logistic_fits
from tests.uses.test_robustness import influence_of
from tests.uses.test_robustness_logistic import problem_of


@pytest.mark.parametrize("kind", ["plain", "weighted", "ridge"])
def test_of_least_squares_it_is_the_refit(kind: str) -> None:
    for seed in range(3):
        case = case_of(kind, seed)
        found = uw.removal_receipt(influence_of(case), [1, 4])
        for j in range(case.X.shape[1]):
            after = fit(case, np.setdiff1d(np.arange(len(case.X)), [1, 4]), j)
            np.testing.assert_allclose(found.theta[j], after.estimate, rtol=1e-7, atol=1e-9)
            assert abs(float(found.theta[j]) - after.estimate) <= float(found.each[j]) + 1e-9
        assert found.distance < 1e-9


@pytest.mark.parametrize("kind", LOGISTIC)
def test_of_logistic_regression_the_retrained_parameters_are_within_the_distance(kind: str) -> None:
    """Inequality 12 of docs/certificates.md, of the parameters after two steps."""
    held = 0
    for seed in range(10):
        case = logistic_case(kind, seed)
        problem = problem_of(case)
        if problem is None:
            continue
        rows = np.random.default_rng(seed).choice(problem.n, 3, replace=False)
        kept = np.ones((1, problem.n), dtype=bool)
        kept[0, rows] = False
        truth = logistic_fits(case, kept)[0]
        try:
            found = uw.removal_receipt(uw.Influence(problem), rows)
        except ValueError:  # a rare category that is gone
            continue
        if found.distance == np.inf:
            continue
        assert np.linalg.norm(found.theta.numpy() - truth) <= found.distance + 1e-7
        assert (abs(found.theta.numpy() - truth) <= found.each.numpy() + 1e-7).all()
        held += found.distance < 0.5 * found.moved
    assert held > 2 or kind == "near-separable"


def test_hashes_cover_what_they_say_and_nothing_is_kept() -> None:
    case = case_of("plain", 0)
    influence = influence_of(case)
    found, again = uw.removal_receipt(influence, [2]), uw.removal_receipt(influence, [3])
    assert found.hashes["parameters before"] == again.hashes["parameters before"]
    assert found.hashes["removed rows"] != again.hashes["removed rows"]
    row = np.concatenate([case.X[2], [case.y[2], 1.0]])[None]
    digest = hashlib.sha256(f"{row.shape}".encode() + row.astype("<f8").tobytes()).hexdigest()
    assert found.hashes["removed rows"] == digest
    assert found.problem.n == len(case.X) - 1
    told = json.loads(found.to_json())
    assert told["rows"] == [2]
    np.testing.assert_array_equal(told["parameters"], found.theta)
    assert "sha256 rows left" in repr(found)


def test_receipts_that_cannot_be_given_are_refused() -> None:
    influence = influence_of(case_of("plain", 0))
    for rows in ([], [99], list(range(influence.problem.n))):
        with pytest.raises(ValueError, match="rows"):
            uw.removal_receipt(influence, rows)
    rng = np.random.default_rng(0)
    X = torch.from_numpy(rng.normal(size=(9, 2)))
    softmax = uw.LinearProblem.fit(X, torch.arange(9) % 3, loss=uw.Softmax(), outputs=3, l2=0.1)
    with pytest.raises(TypeError, match="least squares and logistic"):
        uw.removal_receipt(uw.Influence(softmax), [0])

"""Pairs that swap in models that differ little: against all pairs, one by one."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

import upweight as uw
from upweight import measures as ms
from upweight.measures.swaps import pairs_in_order


def drawn(seed: int, m: int, size: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    positive = rng.random(m) < 0.3
    positive[:2] = True, False
    return np.sort(rng.normal(size=m)), (size * rng.normal(size=(m, 6))).astype(np.float32), positive


@given(seed=st.integers(0, 50), m=st.sampled_from([2, 30, 700]), size=st.sampled_from([0.0, 1e-3, 0.1, 5.0]))
def test_pairs_are_those_of_all_comparisons(seed: int, m: int, size: float):
    base, shifts, positive = drawn(seed, m, size)
    counts, doubtful = pairs_in_order(base, shifts, positive, np.full(6, 1e-9))
    outputs = base[:, None] + shifts.astype(np.float64)
    expected = (outputs[positive][:, None] > outputs[~positive][None]).sum((0, 1))
    assert np.array_equal(counts[~doubtful], expected[~doubtful])
    assert doubtful.mean() < 0.9 or size == 5.0


def test_a_tie_is_in_doubt():
    base, shifts = np.array([0.0, 0.0, 1.0]), np.zeros((3, 1), dtype=np.float32)
    assert pairs_in_order(base, shifts, np.array([True, False, True]), np.zeros(1))[1].tolist() == [True]


@pytest.mark.parametrize("reference", [40, 400])
def test_the_auroc_of_many_models_is_that_of_each(reference: int, monkeypatch: pytest.MonkeyPatch):
    rng = np.random.default_rng(0)
    X = torch.from_numpy(rng.normal(size=(300 + reference, 5)))
    y = torch.from_numpy((rng.random(300 + reference) < 0.4).astype(int))
    problem = uw.LinearProblem.fit(X[:300], y[:300], loss=uw.Logistic(), l2=0.05, intercept=True)
    steps = uw.Influence(problem).row_steps
    assert steps is not None
    asked = X[300:], y[300:]
    exact = steps.changes(asked, ms.auroc)
    monkeypatch.setattr("upweight.linear.questions.MANY", 0)
    found = steps.changes(asked, ms.auroc)
    assert torch.equal(found, exact)
    outputs = problem.evaluate_each(asked, steps.parameters(torch.arange(300)), ms.logit)
    signs = torch.where(asked[1] == 1, 1, -1)
    wanted = [roc_auc_score(asked[1], line) for line in (outputs * signs)]
    assert np.allclose(found[0] + float(problem.evaluate(asked, ms.auroc)[0]), wanted, rtol=0, atol=1e-12)
    assert float((exact == 0).double().mean()) < 1

"""Gradients of objectives without some examples, against autograd on the objective of the others."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.cases import BY_NAME, CASES, Case, case_id, draw
from tests.support.compare import assert_close_per_row
from upweight.linear import reduced_gradients as module

every_case = pytest.mark.parametrize("case", CASES, ids=case_id)


def reduced_value(case: Case, gone: torch.Tensor, theta: torch.Tensor) -> torch.Tensor:
    """The mean over the others, with l2 as it is or grown so that the total penalty stays."""
    kept = [i for i in range(case.n) if i not in gone.tolist()]
    factor = case.n / len(kept) if case.keep == "total" else 1.0
    losses = case.w[kept] * case.losses(theta, case.dense[kept], case.y[kept])
    return losses.mean() + factor * (0.5 * case.penalty * theta**2).sum()


def plain(case: Case, sets: list[torch.Tensor], thetas: torch.Tensor) -> torch.Tensor:
    found = []
    for gone, theta in zip(sets, thetas, strict=True):
        leaf = theta.clone().requires_grad_()
        found.append(torch.autograd.grad(reduced_value(case, gone, leaf), leaf)[0])
    return torch.stack(found)


SETS = [torch.tensor(rows, dtype=torch.long) for rows in ([], [0], [3, 1, 5], [5, 4], list(range(5)))]


@every_case
def test_gradients_at_parameters_of_their_own(case: Case):
    thetas = draw(len(SETS), case.p, seed=7)
    found = case.elsewhere.gradients_without(SETS, thetas)
    assert_close_per_row(found, plain(case, SETS, thetas), 1e-10)


@every_case
def test_gradients_at_the_problems_own_parameters(case: Case):
    theta = case.elsewhere.theta
    found = case.elsewhere.gradients_without(SETS)
    assert_close_per_row(found, plain(case, SETS, theta.expand(len(SETS), -1)), 1e-10)


@given(
    st.sampled_from(["softmax total intercept", "logistic sparse intercept weights", "squared two outputs"]),
    st.lists(st.lists(st.integers(0, 39), max_size=12, unique=True), min_size=1, max_size=6),
)
@settings(max_examples=20)
def test_any_sets_also_those_that_overlap(name: str, picked: list[list[int]]):
    case = BY_NAME[name]
    sets = [torch.tensor(rows, dtype=torch.long) for rows in picked]
    thetas = case.elsewhere.theta.repeat(len(sets), 1)
    wanted = plain(case, sets, thetas)
    assert_close_per_row(case.elsewhere.gradients_without(sets), wanted, 1e-9)
    assert_close_per_row(case.elsewhere.gradients_without(sets, thetas), wanted, 1e-9)


@pytest.mark.parametrize("rows", [1, 2, 5])
def test_removed_rows_some_at_a_time(rows: int, monkeypatch: pytest.MonkeyPatch):
    problem = BY_NAME["softmax total intercept"].elsewhere
    whole = problem.gradients_without(SETS)
    monkeypatch.setattr(module, "GONE_ROWS", rows)
    assert_close_per_row(problem.gradients_without(SETS), whole, 1e-12)


@pytest.mark.parametrize("name", ["softmax total intercept", "logistic sparse intercept weights"])
def test_at_the_optimum_of_the_others_it_is_zero(name: str):
    """Both conventions of the penalty: `without` and the reduced gradient mean the same retraining."""
    case, rows = BY_NAME[name], torch.tensor([2, 9, 11])
    there = case.problem.without(rows).minimised(1e-12)
    found = case.problem.gradients_without([rows], there.theta[None])
    assert float(found.norm()) < 1e-11
    other = case.problem.changed(keep="mean" if case.keep == "total" else "total")
    assert float(other.gradients_without([rows], there.theta[None]).norm()) > 1e-4


def test_no_set_has_no_gradient():
    problem = BY_NAME["softmax"].elsewhere
    assert problem.gradients_without([]).shape == (0, problem.p)

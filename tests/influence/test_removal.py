"""Removal of sets: against plain algebra, against retraining by plain Newton, and intervals that no refit leaves."""

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import upweight as uw
from tests.support.cases import BY_NAME, CASES, Case, case_id, newton
from tests.support.compare import assert_close_per_row
from upweight.data.row_sets import as_sets

SETS = [[3], [0], [1, 2], [0, 2, 3, 4]]
GUARANTEED = [
    case
    for case in CASES
    if isinstance(case.loss, uw.Softmax) or (isinstance(case.loss, uw.Logistic) and case.c == 1)
]


def penalty_kept(case: Case, kept: int) -> float:
    """What the penalty of the *total* objective is multiplied with after the removal."""
    return case.n if case.keep == "total" else kept


def total_objective(case: Case, removed: list[int]):
    """The reduced objective, a sum and not a mean, as a textbook writes it."""
    w = case.w.clone()
    w[removed] = 0.0
    strength = penalty_kept(case, case.n - len(removed))

    def value(theta: torch.Tensor) -> torch.Tensor:
        losses = case.losses(theta, case.dense, case.y)
        return (w * losses).sum() + strength * (0.5 * case.penalty * theta**2).sum()

    return value


def plain_step(case: Case, removed: list[int]) -> torch.Tensor:
    """The Newton step on the reduced objective, less the one that finishing the training would take."""
    theta = case.problem.theta
    H = torch.autograd.functional.hessian(total_objective(case, removed), theta)
    gradient = torch.autograd.functional.jacobian(lambda t: case.train_objective(t)[removed].sum(), theta)
    return torch.linalg.lstsq(H, gradient[:, None], driver="gelsd").solution[:, 0]


def plain_loss(case: Case, theta: torch.Tensor) -> torch.Tensor:
    X, y = case.test
    return case.losses(theta, torch.as_tensor(X.toarray() if hasattr(X, "toarray") else X).double(), y)


@pytest.mark.parametrize("case", CASES, ids=case_id)
def test_newton_and_rescaled_equal_plain_algebra(case: Case) -> None:
    found = uw.Influence(case.problem, solver=uw.Exact()).of_removal(SETS, case.test)
    theta = case.problem.theta
    expected, linear = [], []
    for rows in SETS:
        expected.append(plain_loss(case, theta + plain_step(case, rows)) - plain_loss(case, theta))
        step = sum(plain_step(case, [row]) for row in rows)
        linear.append(case.problem.test_gradients(case.test) @ step)
    assert found.newton is not None
    assert found.rescaled is not None
    assert_close_per_row(found.newton.T, torch.stack(expected), 1e-7)
    assert_close_per_row(found.rescaled.T, torch.stack(linear), 1e-7)


@pytest.mark.parametrize("case", CASES, ids=case_id)
def test_first_order_is_the_sum_of_influences(case: Case) -> None:
    influence = uw.Influence(case.problem, solver=uw.Exact())
    effect = influence.on_loss(case.test).removal_effect()
    found = influence.of_removal(SETS, case.test)
    assert_close_per_row(found.first_order.T, torch.stack([effect[:, s].sum(1) for s in SETS]), 1e-12)


@pytest.mark.parametrize("case", CASES, ids=case_id)
def test_newton_against_retraining(case: Case) -> None:
    found = uw.Influence(case.problem, solver=uw.Exact()).of_removal(SETS, case.test)
    start = plain_loss(case, newton(total_objective(case, []), case.problem.theta, 1e-12))
    actual = torch.stack(
        [plain_loss(case, newton(total_objective(case, s), case.problem.theta, 1e-12)) - start for s in SETS]
    )
    # A quadratic takes one Newton step; elsewhere these sets, a tenth or a third of the examples, are not small.
    bar = 1e-7 if isinstance(case.loss, uw.Squared) else 0.1 if case.n >= 40 else 0.3
    assert_close_per_row(found.newton[None], actual.T[None], bar)  # type: ignore[index]


@pytest.mark.parametrize("case", CASES, ids=case_id)
def test_leave_one_out_equals_single_newton_steps(case: Case) -> None:
    alone = uw.Influence(case.problem, solver=uw.Exact()).leave_one_out()
    expected = torch.stack(
        [case.outputs(case.problem.theta + plain_step(case, [i]), case.dense[[i]])[0] for i in range(case.n)]
    )
    assert_close_per_row(alone.outputs, expected, 1e-7)
    assert_close_per_row(alone.loss, case.losses_of(alone.outputs), 1e-9)


def test_leverages_sum_to_the_effective_parameters() -> None:
    case = BY_NAME["squared"]
    alone = uw.Influence(case.problem).leave_one_out()
    root = case.w.sqrt()[:, None] * torch.cat([case.dense, torch.ones(case.n, 1).double()], dim=1)
    hat = root @ torch.linalg.solve(root.T @ root + case.n * case.penalty.diag(), root.T)
    assert_close_per_row(alone.leverage, hat.diagonal(), 1e-9)


@pytest.mark.parametrize("case", GUARANTEED, ids=case_id)
def test_no_refit_leaves_its_interval(case: Case) -> None:
    sets = [[0], [3], [5], [1, 2]]
    influence = uw.Influence(case.problem, solver=uw.Exact())
    start = plain_loss(case, case.problem.theta)
    refits = [newton(total_objective(case, rows), case.problem.theta, 1e-12) for rows in sets]
    actual = torch.stack([plain_loss(case, theta) - start for theta in refits], dim=1)
    for steps in (1, 2, 3):
        found = influence.of_removal(sets, case.test, guarantee=steps)
        assert found.low is not None
        assert found.high is not None
        assert bool((found.low <= actual).all())
        assert bool((actual <= found.high).all())


def test_a_newton_step_squares_the_width() -> None:
    case = BY_NAME["logistic sparse intercept weights"]
    influence = uw.Influence(case.problem)
    width = []
    for steps in (1, 2, 3):
        found = influence.of_removal([[i] for i in range(case.n)], case.test, guarantee=steps)
        width.append(float((found.high - found.low).median()))  # type: ignore[operator]
    assert width[1] < 0.05 * width[0]
    assert width[2] < 1e-3 * width[1]


def test_an_interval_holds_also_where_training_was_not_finished() -> None:
    case = BY_NAME["logistic"]
    unfinished = case.problem.at(case.problem.theta + 0.02)
    found = uw.Influence(unfinished).of_removal([[5]], case.test, guarantee=2)
    actual = plain_loss(case, newton(total_objective(case, [5]), case.problem.theta, 1e-12))
    actual = actual - plain_loss(case, unfinished.theta)
    assert found.low is not None
    assert found.high is not None
    assert bool(((found.low[:, 0] <= actual) & (actual <= found.high[:, 0])).all())


@settings(max_examples=12)
@given(st.integers(0, 39), st.integers(2, 38))
def test_a_set_of_more_rows_than_parameters(start: int, size: int) -> None:
    case = BY_NAME["logistic"]
    rows = [(start + i) % case.n for i in range(size)]
    found = uw.Influence(case.problem).of_removal(rows, case.test)
    step = plain_step(case, rows)
    expected = plain_loss(case, case.problem.theta + step) - plain_loss(case, case.problem.theta)
    assert_close_per_row(found.newton[:, 0][None], expected[None], 1e-7)  # type: ignore[index]


def test_chunks_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    case = BY_NAME["softmax"]
    influence = uw.Influence(case.problem)
    expected = influence.of_removal(SETS, case.test, guarantee=1), influence.leave_one_out()
    monkeypatch.setattr("upweight.influence.woodbury.HELD_BYTES", 8 * case.p * case.c * 3)
    found = influence.of_removal(SETS, case.test, guarantee=1), influence.leave_one_out()
    for name in ("newton", "rescaled", "low", "high"):
        assert_close_per_row(getattr(found[0], name), getattr(expected[0], name), 1e-9)
    assert_close_per_row(found[1].outputs, expected[1].outputs, 1e-12)


def test_any_measure() -> None:
    case = BY_NAME["softmax"]
    coefficient = uw.OfParameters(lambda params: params["weight"][1, 2])
    influence = uw.Influence(case.problem)
    found = influence.of_removal([[0], [1, 2]], case.test, measure=coefficient)
    expected = torch.stack([plain_step(case, rows)[case.dense.shape[1] + 2] for rows in ([0], [1, 2])])
    assert_close_per_row(found.newton, expected[None], 1e-7)
    gap = uw.Overall(lambda outputs, targets: outputs[:2].mean() - outputs[2:].mean())
    assert influence.of_removal([[0]], case.test, measure=gap).newton.shape == (1, 1)  # type: ignore[union-attr]


def test_networks_get_first_order() -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.Tanh(), torch.nn.Linear(2, 1)).double()
    X, y = torch.randn(20, 3).double(), torch.randn(20, 1).double()
    problem = uw.Problem(model, torch.nn.MSELoss(), (X, y), l2=0.1)
    influence = uw.Influence(problem, curvature=uw.GaussNewton(problem))
    found = influence.of_removal([[0, 1]], (X[:2], y[:2]))
    assert found.newton is None
    assert_close_per_row(
        found.first_order[:, 0], influence.on_loss((X[:2], y[:2])).removal_effect()[:, :2].sum(1), 1e-12
    )
    with pytest.raises(ValueError, match="logistic and softmax"):
        influence.of_removal([[0, 1]], (X[:2], y[:2]), guarantee=1)
    with pytest.raises(TypeError, match="linear"):
        influence.leave_one_out()


def test_groups_come_in_every_form() -> None:
    names, sets = as_sets(torch.tensor([True, False, True, False]), 4)
    assert names.tolist() == [0]
    assert sets[0].tolist() == [0, 2]
    assert as_sets([2, 1], 4)[1][0].tolist() == [2, 1]
    assert [s.tolist() for s in as_sets([[2], np.array([0, 1])], 4)[1]] == [[2], [0, 1]]
    names, sets = as_sets(pd.Series(["b", "a", "b", "c"], index=[9, 8, 7, 6]), 4)
    assert names.tolist() == ["a", "b", "c"]
    assert sets[1].tolist() == [0, 2]
    names, sets = as_sets(pd.Series([5, 7, 5, 5]), 4)
    assert names.tolist() == [5, 7]
    names, sets = as_sets({"first": [0], "odd": [False, True, False, True]}, 4)
    assert names.tolist() == ["first", "odd"]
    assert sets[1].tolist() == [1, 3]
    names, _ = as_sets(pd.Series(pd.Categorical(["x", "y", "x", "x"], ["x", "y", "never"])), 4)
    assert names.tolist() == ["x", "y"]


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ([], "empty"),
        ([[0], []], "group 1 is empty"),
        ([0, 7], "training row 7; rows are 0 to 3"),
        ({"a": [-1]}, "group 'a' has the training row -1"),
        ([1, 1], "twice"),
        ([0, 1, 2, 3], "whole training set"),
        (torch.tensor([True, False]), r"mask of training rows must have shape \(4,\)"),
        (["a", "b"], r"one entry per training row \(4\), got 2"),
        ([0.5], "list of row numbers"),
        (["a", "a", "a", "a"], "whole training set"),
    ],
)
def test_bad_groups(groups: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        as_sets(groups, 4)


def test_bad_guarantees() -> None:
    squared, logistic = BY_NAME["squared"], BY_NAME["logistic"]
    with pytest.raises(ValueError, match="logistic and softmax"):
        uw.Influence(squared.problem).of_removal([0], squared.test, guarantee=1)
    damped = uw.Influence(logistic.problem, curvature=uw.Hessian(logistic.problem, 0.1))
    with pytest.raises(ValueError, match="without damping"):
        damped.of_removal([0], logistic.test, guarantee=1)
    with pytest.raises(ValueError, match="leave `measure` out"):
        damped.of_removal([0], logistic.test, guarantee=1, measure=lambda o, t: o[:, 0])
    rest = next(case for case in CASES if isinstance(case.loss, uw.Logistic) and case.c > 1)
    with pytest.raises(ValueError, match="one-vs-rest"):
        uw.Influence(rest.problem).of_removal([0], rest.test, guarantee=1)
    with pytest.raises(ValueError, match="at least 1"):
        uw.Influence(logistic.problem).of_removal([0], logistic.test, guarantee=-1)


def test_what_only_one_row_fits_cannot_be_taken_away() -> None:
    X = torch.eye(3, dtype=torch.float64)[[0, 0, 1, 1, 2]]
    y = torch.tensor([1.0, 2.0, 1.0, 0.0, 3.0])
    problem = uw.LinearProblem.fit(X, y, loss=uw.Squared())
    influence = uw.Influence(problem)
    assert influence.of_removal([0], (X[:1], y[:1])).newton is not None
    with pytest.raises(uw.IndefiniteError, match="fitted by them alone"):
        influence.of_removal([4], (X[:1], y[:1]))


def test_a_set_too_large_for_a_statement_has_an_infinite_interval() -> None:
    # Without its last row the data are separable, and the penalty is next to nothing: the weight grows manyfold.
    X, y = torch.tensor([[1.0], [-1.0], [1.5], [-0.5], [1.0]]).double(), torch.tensor([1, 0, 1, 0, 0])
    problem = uw.LinearProblem.fit(X, y, loss=uw.Logistic(), l2=1e-6)
    found = uw.Influence(problem).of_removal([4], (X[:2], y[:2]), guarantee=1)
    assert found.low is not None
    assert found.high is not None
    assert bool(found.high.isinf().all())
    assert bool((found.low >= -problem.evaluate((X[:2], y[:2]))[:, None] - 1e-12).all())


def test_the_table_says_everything() -> None:
    case = BY_NAME["logistic"]
    found = uw.Influence(case.problem).of_removal({"a": [0], "b": [1, 2]}, case.test, guarantee=1)
    frame = found.to_frame()
    assert list(frame["group"])[:2] == ["a", "b"]
    assert {"first order", "rescaled", "newton", "low", "high", "size", "sum of members / set"} <= set(frame)
    assert "positive = it would rise" in repr(found)
    assert "<table" in found._repr_html_()

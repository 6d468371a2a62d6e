"""Removal of sets: against plain algebra, and against retraining by plain Newton."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import upweight as uw
from tests.support.cases import BY_NAME, CASES, Case, case_id, draw, newton
from tests.support.compare import assert_close_per_row
from tests.support.refits import losses_on_test, plain_step, total_objective
from upweight import Hessian
from upweight.data.row_sets import as_sets
from upweight.influence.removal import Removal
from upweight.influence.settling import ENOUGH
from upweight.influence.stationarity import finishing

SETS = [[3], [0], [1, 2], [0, 2, 3, 4]]


@pytest.mark.parametrize("case", CASES, ids=case_id)
def test_newton_and_rescaled_equal_plain_algebra(case: Case) -> None:
    found = uw.Influence(case.problem, solver=uw.Exact()).of_removal(SETS, case.test, steps=1)
    theta = case.problem.theta
    expected, linear = [], []
    for rows in SETS:
        expected.append(losses_on_test(case, theta + plain_step(case, rows)) - losses_on_test(case, theta))
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
    start = losses_on_test(case, newton(total_objective(case, []), case.problem.theta, 1e-12))
    actual = torch.stack(
        [
            losses_on_test(case, newton(total_objective(case, s), case.problem.theta, 1e-12)) - start
            for s in SETS
        ]
    )
    # A quadratic takes one Newton step; elsewhere these sets, a tenth or a third of the examples, are not small.
    bar = 1e-7 if isinstance(case.loss, uw.Squared) else 0.1 if case.n >= 40 else 0.3
    assert_close_per_row(found.newton[None], actual.T[None], bar)  # type: ignore[index]


@settings(max_examples=12)
@given(st.integers(0, 39), st.integers(2, 38))
def test_a_set_of_more_rows_than_parameters(start: int, size: int) -> None:
    case = BY_NAME["logistic"]
    rows = [(start + i) % case.n for i in range(size)]
    found = uw.Influence(case.problem).of_removal(rows, case.test, steps=1)
    step = plain_step(case, rows)
    expected = losses_on_test(case, case.problem.theta + step) - losses_on_test(case, case.problem.theta)
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


@pytest.mark.parametrize("case", CASES, ids=case_id)
def test_sets_settle_at_the_refit(case: Case) -> None:
    found = uw.Influence(case.problem, solver=uw.Exact()).of_removal(SETS, case.test)
    assert found.newton is not None
    assert found.left is not None
    before = losses_on_test(case, case.problem.theta)
    settled = [j for j in range(len(SETS)) if float(found.left[:, j].max()) <= ENOUGH]
    assert settled
    thetas = [newton(total_objective(case, SETS[j]), case.problem.theta, 1e-12) for j in settled]
    wanted = torch.stack([losses_on_test(case, theta) - before for theta in thetas], dim=1)
    assert float((found.newton[:, settled] - wanted).norm() / wanted.norm()) < 5 * ENOUGH


@pytest.mark.parametrize("case", CASES, ids=case_id)
def test_a_set_of_one_row_is_that_row_removed_alone(case: Case) -> None:
    influence = uw.Influence(case.problem, solver=uw.Exact())
    found, each = influence.of_removal([[0], [3]], case.test), influence.of_each_removal(case.test)
    assert_close_per_row(found.newton.T, each.effect()[:, [0, 3]].T, 1e-8)  # type: ignore[union-attr]


def test_what_a_set_has_is_not_up_to_the_others_and_one_that_does_not_settle_is_named() -> None:
    case = BY_NAME["softmax"]
    influence, sets = uw.Influence(case.problem), [[i, (i + 3) % case.n] for i in range(case.n)]
    whole = influence.of_removal(sets, case.test)
    for j in (0, 7, 31):
        alone = influence.of_removal([sets[j]], case.test)
        assert_close_per_row(alone.newton.T, whole.newton[:, [j]].T, 1e-12)  # type: ignore[union-attr, index]
        assert alone.steps[0, 0] == whole.steps[0, j]  # type: ignore[index]
    assert "do not settle" not in repr(whole)
    stuck = replace(whole, left=torch.full_like(whole.newton, 0.5))  # type: ignore[arg-type]
    assert "Beware: 0, 1, 2, 3, 4, ... do not settle" in repr(stuck)


def test_any_measure() -> None:
    case = BY_NAME["softmax"]
    coefficient = uw.OfParameters(lambda params: params["weight"][1, 2])
    influence = uw.Influence(case.problem)
    found = influence.of_removal([[0], [1, 2]], case.test, measure=coefficient, steps=1)
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


def test_what_only_one_row_fits_is_undetermined_without_it_and_all_else_is_answered() -> None:
    X = torch.eye(3, dtype=torch.float64)[[0, 0, 1, 1, 2]]
    y = torch.tensor([1.0, 2.0, 1.0, 0.0, 3.0])
    problem = uw.LinearProblem.fit(X, y, loss=uw.Squared())
    influence = uw.Influence(problem)
    found = influence.of_removal({"one": [0], "alone": [4], "two": [1, 2]}, (X[:3], y[:3]))
    assert found.undetermined.tolist() == ["alone"]
    assert found.newton is not None
    assert found.rescaled is not None
    assert bool(found.newton[:, 1].isnan().all() & found.rescaled[:, 1].isnan().all())
    # The means of their own columns: without row 0 the first is 2, without rows 1 and 2 they are 1 and 0.
    wanted = torch.tensor([[0.5, 0.0], [0.0, 0.5], [0.125, 0.5]]).double() - problem.train_losses()[:3, None]
    assert_close_per_row(found.newton[:, [0, 2]], wanted, 1e-12)
    for words in (repr(found), found._repr_html_()):
        assert (
            "undetermined (NaN): alone. Some direction of the parameters is fitted by such a set alone"
            in words
        )
    assert "undetermined" not in repr(influence.of_removal([0], (X[:1], y[:1])))


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("loss", [uw.Squared(), uw.Logistic(), uw.Softmax()])
def test_a_leverage_within_rounding_of_one_is_nan_and_all_other_rows_are_exact(seed: int, loss) -> None:
    """A category that one row alone has: its column is nothing without that row."""
    generator = torch.Generator().manual_seed(seed)
    n, c = 30, 3 if isinstance(loss, uw.Softmax) else 1
    only = torch.zeros(n, dtype=torch.float64)
    only[7] = torch.randn(1, generator=generator) * 3 + 0.1
    X = torch.cat([torch.randn(n, 2, generator=generator).double(), only[:, None]], 1)
    y = torch.arange(n) % max(2, c)
    y[7] = y[8]
    l2 = torch.tensor([0.1, 0.1, 0.0]).repeat(c).double()
    problem = uw.LinearProblem(X, y, draw(c, 3, seed=seed) * torch.tensor([1.0, 1.0, 0.1]), loss=loss, l2=l2)
    alone = uw.Influence(problem).leave_one_out()
    assert alone.undetermined.tolist() == [7]
    assert bool(alone.outputs[7].isnan().all() & alone.loss[7].isnan())
    assert float(alone.leverage[7]) > 0.99
    found = uw.Influence(problem).of_removal([[i] for i in range(n)], (X, y))
    assert found.undetermined.tolist() == [7]
    # The same of the rows without it, which the column says nothing of.
    rest = torch.tensor([i for i in range(n) if i != 7])
    for i in (0, 12):
        kept = torch.tensor([j for j in range(n) if j != i])
        A = Hessian(problem.subset(kept)).matrix() * (n - 1)
        g = problem.train_gradients(torch.tensor([i]))[0]
        gauge = problem.gauge
        A = A if gauge is None else A + gauge.T @ gauge
        step = torch.linalg.solve(A, g)
        moved = problem.at(problem.theta + step).outputs()[i]
        moved, there = (v - v.mean() * (c > 1) for v in (moved, alone.outputs[i]))
        assert_close_per_row(there, moved, 1e-7)
    assert bool(alone.outputs[rest].isfinite().all())


@pytest.mark.parametrize("count", [0, 1, 5, 6])
def test_at_most_five_undetermined_groups_are_named(count: int) -> None:
    newton = torch.zeros(2, 7).double()
    newton[:, :count] = torch.nan
    newton[0, 6] = torch.nan  # of one measure only: the group is not undetermined
    names = pd.Index(list("abcdefg"))
    found = Removal(names, torch.ones(7).long(), torch.zeros(2, 7).double(), newton=newton)
    assert found.undetermined.tolist() == list("abcdefg")[:count]
    said = {0: "", 1: "a.", 5: "a, b, c, d, e.", 6: "a, b, c, d, e, ...."}[count]
    remarks = [line for line in repr(found).splitlines() if line.startswith("undetermined (NaN): ")]
    assert [line.partition(": ")[2].partition(" Some")[0] for line in remarks] == [said] * (count > 0)


def test_the_table_says_everything() -> None:
    case = BY_NAME["logistic"]
    found = uw.Influence(case.problem).of_removal({"a": [0], "b": [1, 2]}, case.test, guarantee=1)
    frame = found.to_frame()
    assert list(frame["group"])[:2] == ["a", "b"]
    best_first = [name for name in frame if name in ("newton", "low", "high", "rescaled", "first order")]
    assert best_first == ["newton", "low", "high", "rescaled", "first order"]
    assert {"first order", "rescaled", "newton", "low", "high", "size", "only together"} <= set(frame)
    assert (frame["rescaled"] + frame["only together"]).to_numpy() == pytest.approx(
        frame["newton"].to_numpy()
    )
    assert "positive = it would rise" in repr(found)
    assert "<table" in found._repr_html_()


def test_changes_of_the_mean_are_means_of_the_changes_and_so_is_the_drift() -> None:
    case = BY_NAME["logistic"]
    problem = case.problem.at(case.problem.theta + 0.01)
    found = uw.Influence(problem).of_removal({"a": [0], "b": [1, 2]}, case.test, guarantee=1)
    mean = found.averaged
    asked = uw.measures.Overall(
        lambda outputs, y: problem.loss.value(outputs, problem.encode(y, len(outputs))).mean()
    )
    wanted = uw.Influence(problem).of_removal({"a": [0], "b": [1, 2]}, case.test, measure=asked)
    for name in ("first_order", "rescaled", "newton", "drift"):
        assert_close_per_row(getattr(mean, name), getattr(wanted, name), 1e-9)
    frame = mean.to_frame()
    assert (frame["low"] <= frame["high"]).all()
    assert mean.measure == "mean loss"
    assert frame["only together"].to_numpy() == pytest.approx(
        (frame["newton"] - frame["rescaled"]).to_numpy()
    )


def test_unfinished_training_is_told_beside_the_best_prediction() -> None:
    case = CASES[0]
    found = uw.Influence(case.problem).of_removal([[0, 1]], case.test)
    assert found.newton is not None
    drift = found.newton.abs().minimum(found.first_order.abs())[:, 0] * 2
    found = replace(found, drift=drift, newton=3 * drift[:, None], first_order=0.1 * drift[:, None])
    assert found.remarks == [finishing("loss", drift, 3 * drift[:, None])]
    assert "0% of the effects are smaller" in found.remarks[0]
    assert "100% of the effects are smaller" in replace(found, newton=None).remarks[0]

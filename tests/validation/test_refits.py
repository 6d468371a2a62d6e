"""Refits without some rows: against refits made alone and by plain Newton, whatever way they take."""

from typing import Any

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression

import upweight as uw
from tests.support.cases import BY_NAME, CASES, Case, case_id, draw, newton
from tests.support.classifiers import network, weighted_softmax
from tests.support.compare import assert_close_per_row
from tests.support.refits import losses_on_test, total_objective
from upweight.validation import refits
from upweight.validation.refits import measured_refits, refit_without

every_case = pytest.mark.parametrize("case", CASES, ids=case_id)


def measured(case: Case, removed: list[int], **settings: Any) -> tuple[torch.Tensor, torch.Tensor, bool]:
    settings = {"measure": None, "refit": None, "tolerance": 1e-11, **settings}
    measure = settings.pop("measure")
    return measured_refits(case.problem, case.test, measure, torch.tensor(removed), **settings)


@pytest.mark.parametrize("keep", ["mean", "total"])
def test_block_refits_equal_refits_alone(keep: str) -> None:
    problem = weighted_softmax(keep)
    removed = [
        torch.tensor(rows, dtype=torch.long) for rows in ([], [0], [7], [39], [1, 4, 30], list(range(15)))
    ]
    thetas, norms = refit_without(problem, removed, uw.Hessian(problem).factor(), 1e-11)
    assert float(norms.max()) <= 1e-11
    for theta, rows in zip(thetas[1:], removed[1:], strict=True):
        kept = torch.tensor([i for i in range(problem.n) if i not in rows.tolist()])
        alone = problem.subset(kept)
        if keep == "total":
            alone = alone.changed(l2=problem.l2 * problem.n / len(kept))
        assert torch.allclose(problem.without(rows).l2, alone.l2, rtol=1e-14)
        expected = alone.minimised(1e-11).theta
        assert float((theta - expected).norm() / expected.norm()) < 1e-8


@every_case
def test_changes_of_losses_are_those_of_plain_refits(case: Case) -> None:
    removed = [0, 3, case.n - 1]
    changes, norms, complete = measured(case, removed)
    assert complete
    assert float(norms.max()) <= 2e-11
    start = newton(total_objective(case, []), case.problem.theta, 1e-12)
    for change, row in zip(changes, removed, strict=True):
        theta = newton(total_objective(case, [row]), case.problem.theta, 1e-12)
        wanted = losses_on_test(case, theta) - losses_on_test(case, start)
        assert_close_per_row(change[None], wanted[None], 1e-6)


@pytest.mark.parametrize("block", [1, 2, 5])
def test_blocks_do_not_matter(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    case, removed = BY_NAME["softmax total intercept"], [0, 3, 7, 8, 20]
    wanted = measured(case, removed)[0]
    monkeypatch.setattr(refits, "BLOCK", block)
    assert_close_per_row(measured(case, removed)[0], wanted, 1e-6)


@pytest.mark.parametrize("steps", [0, 1, 2])
@pytest.mark.parametrize("name", ["logistic", "softmax weights float32"])
def test_refits_that_the_fixed_factor_does_not_finish_are_finished_alone(
    name: str, steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    problem = BY_NAME[name].problem
    sets = [torch.tensor(rows, dtype=torch.long) for rows in ([], [2], list(range(12)))]
    factor = uw.Hessian(problem).factor(torch.float32)
    wanted, _ = refit_without(problem, sets, factor, 1e-11)
    monkeypatch.setattr(refits, "STEPS", steps)
    found, norms = refit_without(problem, sets, factor, 1e-11)
    assert float(norms.max()) <= 2e-11
    assert_close_per_row(found, wanted, 1e-7)


def test_a_refit_that_is_not_finished_is_no_judge(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = BY_NAME["logistic"].problem
    monkeypatch.setattr(refits, "STEPS", 0)
    monkeypatch.setattr(uw.LinearProblem, "minimised", lambda self, tolerance: self)
    with pytest.raises(uw.NotConvergedError, match=r"a refit stopped at gradient norm .*, wanted 1e-11"):
        refit_without(problem, [torch.tensor([2])], uw.Hessian(problem).factor(), 1e-11)


def test_a_measure_of_the_parameters_moves_as_they_do() -> None:
    case = BY_NAME["logistic"]
    coefficient = uw.OfParameters(lambda params: params["weight"][0, 1])
    changes, _, _ = measured(case, [4, 9], measure=coefficient)
    for change, row in zip(changes, (4, 9), strict=True):
        theta = newton(total_objective(case, [row]), case.problem.theta, 1e-12)
        assert float(change) == pytest.approx(float(theta[1] - case.problem.theta[1]), rel=1e-6)


# -- refits by the user ------------------------------------------------------------------------------------------------


def test_a_users_refits_are_compared_with_one_of_all_rows() -> None:
    """What the same further training does with nothing removed does not count."""
    case, asked = BY_NAME["logistic"], []

    def refit(kept: torch.Tensor) -> torch.Tensor:
        asked.append(kept.tolist())
        theta = case.problem.theta + 0.1  # further training
        return theta + (0.01 if len(kept) < case.n else 0.0) * torch.arange(case.p)

    changes, norms, complete = measured(case, [4, 9], refit=refit)
    every = list(range(case.n))
    assert asked == [every, [i for i in every if i != 4], [i for i in every if i != 9]]
    at = [
        losses_on_test(case, case.problem.theta + 0.1 + step * torch.arange(case.p)) for step in (0.0, 0.01)
    ]
    for change in changes:
        assert_close_per_row(change[None], (at[1] - at[0])[None], 1e-10)
    assert bool(norms.isnan().all())
    assert complete


def test_a_module_is_taken_for_its_parameters() -> None:
    problem, (X, y) = network()

    def model(kept: torch.Tensor) -> torch.nn.Module:
        layer = torch.nn.Linear(3, 1).double()
        torch.nn.init.constant_(layer.weight, float(len(kept)) / 20)
        torch.nn.init.zeros_(layer.bias)
        return layer

    def flat(kept: torch.Tensor) -> torch.Tensor:
        return torch.tensor([float(len(kept)) / 20] * 3 + [0.0], dtype=torch.float64)

    found = [
        measured_refits(problem, (X, y), None, torch.tensor([1, 5]), refit=refit, tolerance=1e-9)[0]
        for refit in (model, flat)
    ]
    assert torch.equal(*found)
    assert float(found[0].abs().min()) > 0


def test_a_module_counts_with_its_buffers_and_what_was_held_fixed() -> None:
    """Batch norm's statistics and a trunk outside params= are those of the retraining."""
    X, y = draw(30, 3), draw(30, 1)

    def model(kept: torch.Tensor) -> torch.nn.Module:
        torch.manual_seed(0)
        net = torch.nn.Sequential(
            torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4), torch.nn.Linear(4, 1)
        ).double()
        for part in net.parameters():
            part.data *= 1 + 0.01 * (30 - len(kept)) * float(kept.double().mean())
        for _ in range(20):
            net(X[kept])
        return net.eval()

    problem = uw.Problem(model(torch.arange(30)), torch.nn.functional.mse_loss, (X, y), params="2.*")
    found = measured_refits(problem, (X, y), None, torch.tensor([1, 5]), refit=model, tolerance=1e-9)[0]
    kept = [torch.arange(30), *(torch.arange(30)[torch.arange(30) != row] for row in (1, 5))]
    losses = [(model(rows)(X) - y).square()[:, 0].detach() for rows in kept]
    for change, after in zip(found, losses[1:], strict=True):
        assert_close_per_row(change[None], (after - losses[0])[None], 1e-10)

    def other(kept: torch.Tensor) -> torch.nn.Module:
        return torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Identity(), torch.nn.Linear(4, 1)).double()

    with pytest.raises(
        ValueError, match=r"the returned module must have '1\.weight' of shape \(4,\); there it is"
    ):
        measured_refits(problem, (X, y), None, torch.tensor([1]), refit=other, tolerance=1e-9)


@pytest.mark.parametrize("trained", [torch.zeros(3), torch.zeros(1, 4), 0.5], ids=str)
def test_what_is_neither_parameters_nor_a_module_is_refused(trained: Any) -> None:
    problem, (X, y) = network()
    with pytest.raises(ValueError, match=r"refit must return a module or a flat \(4,\) tensor, got shape"):
        measured_refits(problem, (X, y), None, torch.tensor([1]), refit=lambda kept: trained, tolerance=1e-9)


def test_networks_are_not_refitted_here() -> None:
    problem, (X, y) = network()
    with pytest.raises(
        ValueError, match="for other models give refit=, a function of the kept training rows"
    ):
        measured_refits(problem, (X, y), None, torch.tensor([1]), refit=None, tolerance=1e-9)


@pytest.mark.parametrize("finished", [1, 2])
def test_an_interrupt_keeps_the_blocks_that_are_finished(
    finished: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    case, calls, refit = BY_NAME["logistic"], [], refits.refit_without

    def interrupted(*arguments: Any) -> Any:
        calls.append(len(arguments[1]))
        if len(calls) > finished:
            raise KeyboardInterrupt
        return refit(*arguments)

    wanted = measured(case, [0, 3, 7, 8, 20])
    monkeypatch.setattr(refits, "BLOCK", 2)
    monkeypatch.setattr(refits, "refit_without", interrupted)
    changes, norms, complete = measured(case, [0, 3, 7, 8, 20])
    assert not complete
    assert len(changes) == len(norms) == 2 * finished - 1  # the first of all is the baseline
    assert_close_per_row(changes, wanted[0][: len(changes)], 1e-6)


def test_an_interrupt_before_the_first_refit_ends_all() -> None:
    def refit(kept: torch.Tensor) -> torch.Tensor:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measured(BY_NAME["logistic"], [0], refit=refit)


@every_case
def test_a_set_removed_together_is_a_refit_of_the_others_alone(case: Case) -> None:
    one = refits.change_without(case.problem, case.test, torch.tensor([3]))
    assert_close_per_row(one, measured(case, [3])[0][0], 1e-6)
    rows = torch.tensor([1, 4, 5])
    by_user = refits.change_without(
        case.problem,
        case.test,
        rows,
        lambda left: case.problem.minimised().theta if len(left) == case.problem.n else _alone(case, left),
    )
    assert_close_per_row(refits.change_without(case.problem, case.test, rows), by_user, 1e-6)


def _alone(case: Case, kept: torch.Tensor) -> torch.Tensor:
    gone = torch.tensor([i for i in range(case.problem.n) if i not in set(kept.tolist())])
    return refit_without(case.problem, [gone], uw.Hessian(case.problem).factor(), 1e-11)[0][0]


def test_a_network_is_not_trained_again_without_its_users_help() -> None:
    problem, batch = network()
    with pytest.raises(ValueError, match="only linear models are trained again here"):
        refits.change_without(problem, batch, torch.tensor([0]))


# -- removals that leave no optimum ------------------------------------------------------------------------------------


def rare_category() -> tuple[np.ndarray, np.ndarray, LogisticRegression]:
    """A category of four rows of which row 3 alone is of the other class, and a model without a penalty."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(40, 3))
    X[:, 2] = np.arange(40) < 4
    y = (X[:, 0] + rng.normal(size=40) > 0).astype(int)
    y[:4] = 1, 1, 1, 0
    return X, y, LogisticRegression(C=np.inf, tol=1e-10, max_iter=10_000).fit(X, y)


def test_a_removal_that_leaves_no_optimum_is_not_counted() -> None:
    X, y, model = rare_category()
    problem = uw.from_estimator(model, X, y)
    found = uw.verify(uw.Influence(problem), (X[4:6], y[4:6]), k=39, random=0)
    lost = found.table["actual"].isna()
    assert set(found.table.loc[lost, "train row"]) == {3}
    assert "not counted: without row 3 there is no optimum" in str(found)
    counted = found.table[~lost]
    assert found.top.count == len(counted)
    assert found.top.pearson == pytest.approx(counted[["predicted", "actual"]].corr().iloc[0, 1])
    assert found.estimator is not None
    assert found.estimator < 0.01
    for row in (5, 11):
        kept = np.arange(40) != row
        there = uw.from_estimator(clone(model).fit(X[kept], y[kept]), X[kept], y[kept])
        wanted = there.evaluate((X[4:5], y[4:5])) - problem.evaluate((X[4:5], y[4:5]))
        own = counted.query("`train row` == @row and `test row` == 0")["actual"]
        assert float(own.iloc[0]) == pytest.approx(float(wanted), rel=1e-4)


def test_training_says_that_there_is_no_optimum() -> None:
    X, y, model = rare_category()
    reduced = uw.from_estimator(model, X, y).without(torch.tensor([3]))
    with pytest.raises(uw.NoOptimumError, match="no finite optimum: 2 separate a part of the training data"):
        reduced.minimised()
    reduced.changed(l2=1e-3).minimised()

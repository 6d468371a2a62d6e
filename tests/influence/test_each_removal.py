"""The effect of removing each row: against Newton steps written out, refits without the row, and Eq. 2."""

from pathlib import Path

import pytest
import torch

from tests.support.cases import BY_NAME, CASES, Case, case_id, newton
from tests.support.compare import assert_close_per_row
from tests.support.networks import problem_of
from tests.support.refits import losses_on_test, plain_step, total_objective
from upweight import EKFAC, ConjugateGradient, Exact, Influence, Scores
from upweight.measures import OfParameters, Overall, logit


@pytest.mark.parametrize("case", CASES, ids=case_id)
def test_changes_are_those_of_newton_steps_written_out(case: Case) -> None:
    found = Influence(case.problem, solver=Exact()).of_each_removal(case.test)
    before, picked = losses_on_test(case, case.problem.theta), list(range(0, case.n, 9))
    wanted = [losses_on_test(case, case.problem.theta + plain_step(case, [i])) - before for i in picked]
    assert_close_per_row(found.effect()[:, picked], torch.stack(wanted, dim=1), 1e-6)


def test_changes_are_nearer_to_refits_than_first_order() -> None:
    for name in ("softmax", "logistic"):
        case = BY_NAME[name]
        found, before = (
            Influence(case.problem).of_each_removal(case.test),
            losses_on_test(case, case.problem.theta),
        )
        refits = [newton(total_objective(case, [i]), case.problem.theta, 1e-12) for i in range(0, case.n, 4)]
        actual = torch.stack([losses_on_test(case, theta) - before for theta in refits], dim=1)
        error, first = (
            float((effect[:, ::4] - actual).norm() / actual.norm())
            for effect in (found.effect(), Influence(case.problem).on_loss(case.test).effect())
        )
        assert error < 0.2 * first


@pytest.mark.parametrize("name", ["softmax total intercept", "logistic n < p intercept"])
@pytest.mark.parametrize(
    "measure",
    [
        logit,
        Overall(lambda outputs, targets: outputs.square().mean()),
        OfParameters(lambda params: params["weight"].square().sum()),
    ],
)
def test_any_measure_is_evaluated_at_the_shifted_parameters(name: str, measure, monkeypatch) -> None:
    problem, test = BY_NAME[name].problem, BY_NAME[name].test
    influence = Influence(problem, solver=Exact())
    found = influence.of_each_removal(test, measure=measure).effect()
    steps = influence.row_steps
    assert steps is not None
    thetas = steps.parameters(torch.arange(problem.n))
    before = problem.evaluate(test, measure)
    wanted = torch.stack([problem.evaluate(test, measure, theta) - before for theta in thetas], dim=1)
    assert_close_per_row(found, wanted, 1e-8)
    monkeypatch.setattr("upweight.influence.leave_one_out.HELD_BYTES", 8 * problem.p * problem.c * 2)
    assert_close_per_row(influence.of_each_removal(test, measure=measure).effect(), found, 1e-8)


def test_each_answer_says_how_it_was_predicted() -> None:
    case = BY_NAME["logistic"]
    influence = Influence(case.problem)
    found, first = influence.of_each_removal(case.test), influence.on_loss(case.test)
    assert torch.equal(found.values, first.values)
    assert "Newton step without the row" in repr(found)
    assert "first order" in repr(first)
    assert "of_each_removal" in repr(first)


def test_where_nothing_is_factorised_it_stays_first_order_and_says_so() -> None:
    network, case = problem_of("mlp"), BY_NAME["softmax"]
    for influence, test in (
        (Influence(network, curvature=EKFAC(network, 0.1)), network.train_batch(torch.arange(2))),
        (Influence(case.problem, curvature=EKFAC(case.problem, 0.1)), case.test),
        (Influence(case.problem, solver=ConjugateGradient()), case.test),
    ):
        found = influence.of_each_removal(test)
        assert found.changes is None
        assert "first order" in found.prediction


def test_changes_stay_with_their_rows(tmp_path: Path) -> None:
    case = BY_NAME["logistic"]
    found = Influence(case.problem).of_each_removal(case.test)
    assert torch.equal(found[1].effect(), found.effect()[1:2])
    assert torch.equal(Scores.mean([found, found]).effect(), found.effect())
    found.save(tmp_path / "scores.safetensors")
    assert torch.equal(Scores.load(tmp_path / "scores.safetensors").effect(), found.effect())

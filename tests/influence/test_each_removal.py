"""The effect of removing each row: against Newton steps written out, refits without the row, and Eq. 2."""

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import make_classification
from sklearn.linear_model import HuberRegressor
from sklearn.svm import SVC

from tests.support.cases import BY_NAME, CASES, Case, case_id, newton
from tests.support.compare import assert_close_per_row
from tests.support.networks import problem_of
from tests.support.refits import losses_on_test, plain_step, total_objective
from upweight import EKFAC, ConjugateGradient, Exact, Influence, Scores, from_estimator
from upweight.influence.score_tables import UNSETTLED
from upweight.influence.settling import ENOUGH, MOST
from upweight.measures import OfParameters, Overall, logit


@pytest.mark.parametrize("case", CASES, ids=case_id)
def test_changes_are_those_of_newton_steps_written_out(case: Case) -> None:
    found = Influence(case.problem, solver=Exact()).of_each_removal(case.test, steps=1)
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
    found = influence.of_each_removal(test, measure=measure, steps=1).effect()
    steps = influence.row_steps
    assert steps is not None
    thetas = steps.parameters(torch.arange(problem.n))
    before = problem.evaluate(test, measure)
    wanted = torch.stack([problem.evaluate(test, measure, theta) - before for theta in thetas], dim=1)
    assert_close_per_row(found, wanted, 1e-8)
    monkeypatch.setattr("upweight.influence.leave_one_out.HELD_BYTES", 8 * problem.p * problem.c * 2)
    assert_close_per_row(influence.of_each_removal(test, measure=measure, steps=1).effect(), found, 1e-8)


@pytest.mark.parametrize("case", CASES, ids=case_id)
def test_further_steps_lead_to_the_refit(case: Case) -> None:
    found = Influence(case.problem, solver=Exact()).of_each_removal(case.test)
    assert found.left is not None
    before = losses_on_test(case, case.problem.theta)
    picked = [i for i in range(0, case.n, 9) if bool((found.left[:, i] <= ENOUGH).all())]
    thetas = [newton(total_objective(case, [i]), case.problem.theta, 1e-12) for i in picked]
    wanted = torch.stack([losses_on_test(case, theta) - before for theta in thetas], dim=1)
    assert float((found.effect()[:, picked] - wanted).norm() / wanted.norm()) < 5 * ENOUGH


def of_many(monkeypatch: pytest.MonkeyPatch) -> None:
    """From here on no data are few."""
    monkeypatch.setattr("upweight.influence.leave_one_out.ALL", 0)


def test_of_many_data_the_rows_that_are_shown_have_further_steps(monkeypatch) -> None:
    case = BY_NAME["softmax"]
    whole = Influence(case.problem).of_each_removal(case.test)
    one = Influence(case.problem).of_each_removal(case.test, steps=1)
    of_many(monkeypatch)
    influence = Influence(case.problem)
    found = influence.of_each_removal(case.test, top=3, rows=[5])
    assert found.steps is not None
    assert found.left is not None
    assert one.steps is not None
    further = found.left.isfinite()
    assert bool(further[:, 5].all())
    assert_close_per_row(found.effect()[further][None], whole.effect()[further][None], 1e-9)
    assert_close_per_row(found.effect()[~further][None], one.effect()[~further][None], 1e-9)
    assert set(one.steps.unique().tolist()) == set(found.steps[~further].tolist()) == {1}
    for row in range(len(found)):
        line = found[row]
        for table in (line.helpful(3), line.harmful(3)):
            assert bool(further[row, table.index.tolist()].all())
        alone = influence.of_each_removal(case.problem.train_batch(torch.tensor([row])), top=3)
        both = influence.of_each_removal(case.problem.train_batch(torch.tensor([row, 7])), top=3)
        assert_close_per_row(alone.effect(), both[0].effect(), 1e-9)


def test_more_steps_can_be_asked_for(monkeypatch) -> None:
    case = BY_NAME["softmax"]
    whole = Influence(case.problem).of_each_removal(case.test)
    of_many(monkeypatch)
    found = Influence(case.problem).of_each_removal(case.test, steps=MOST)
    assert_close_per_row(found.effect(), whole.effect(), 1e-9)
    fewer = Influence(case.problem).of_each_removal(case.test, steps=2)
    assert fewer.steps is not None
    assert int(fewer.steps.max()) == 2


def test_unfinished_training_moves_no_effect() -> None:
    case = BY_NAME["logistic"]
    there = case.problem.at(case.problem.theta * 1.01)
    found = Influence(there).of_each_removal(case.test).effect()
    assert_close_per_row(found, Influence(case.problem).of_each_removal(case.test).effect(), 0.2)


def test_rows_that_do_not_settle_are_marked() -> None:
    X, y = make_classification(120, 5, flip_y=0.2, random_state=0)
    X[:, 0] += 0.5 * X[:, 1]
    K = X @ X.T  # a matrix of the user's own: nobody can refit
    svc = SVC(kernel="precomputed", tol=1e-10).fit(K, y)
    influence = Influence(from_estimator(svc, K, y))
    row = int(svc.support_[0])
    asked = K[[row]], y[[row]]
    found = influence.of_each_removal(asked)
    assert "do not settle" in found.prediction
    assert UNSETTLED in found.top(10)
    assert "Beware" in repr(found)
    for said in (found, influence.on_loss(asked)):
        assert "smooth loss stands in" in said.remarks[0]
        assert "smoothed with temperature" in said.remarks[0]
    kept = BY_NAME["logistic"]
    right = Influence(kept.problem).of_each_removal(kept.test)[0]
    assert UNSETTLED not in right.top(5)
    assert right.doubt == ""


def test_a_row_of_no_weight_moves_nothing_where_the_scale_follows_the_residuals() -> None:
    generator = np.random.default_rng(2)
    X = generator.normal(size=(80, 4))
    y, weights = X @ generator.normal(size=4) + generator.standard_t(2, size=80), generator.integers(0, 3, 80)
    model = HuberRegressor(tol=1e-6).fit(X, y, sample_weight=weights)
    problem = from_estimator(model, X, y, sample_weight=weights.astype(float))
    found = Influence(problem).of_each_removal((X[:5], y[:5]))
    assert found.left is not None
    assert int((weights == 0).sum()) > 5
    assert float(found.effect()[:, weights == 0].abs().max()) < 1e-6 * float(found.effect().abs().max())
    assert float(found.left.max()) <= ENOUGH
    assert "nothing determines" not in found.prediction


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


def test_single_steps_are_not_called_several() -> None:
    """Of least squares one step is exact: no further ones are told of."""
    said = {}
    for name in ("squared", "logistic"):
        case = BY_NAME[name]
        said[name] = str(Influence(case.problem).of_each_removal(case.test))
    assert "less than 0.1% of the move is left" in said["squared"]
    assert "further ones" not in said["squared"]
    assert "further ones (1 to " in said["logistic"] or "further ones (2" in said["logistic"]

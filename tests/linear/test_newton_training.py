"""Training against the plain objective's own gradient, and against other optimisers where there is no other way."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.svm import SVC

from tests.support.cases import BY_NAME, CASES, Case, case_id, draw
from tests.support.compare import assert_close_per_row
from upweight import LinearProblem, Logistic, NotConvergedError, SmoothHinge, Softmax, Squared, SquaredHinge
from upweight.linear import newton_training
from upweight.linear.newton_training import minimise

every_case = pytest.mark.parametrize("case", CASES, ids=case_id)


@every_case
def test_fit_reaches_the_optimum_of_the_plain_objective(case: Case):
    theta = case.problem.theta.clone().requires_grad_()
    gradient = torch.autograd.grad(case.value(theta), theta)[0]
    assert float(gradient.norm()) < 1e-10


def test_separable_data_without_a_penalty_do_not_converge():
    X = torch.tensor([[1.0], [2.0], [-1.0], [-2.0]])
    with pytest.raises(NotConvergedError, match="l2 > 0"):
        LinearProblem.fit(X, torch.tensor([1, 1, 0, 0]), loss=Logistic(), tolerance=1e-100)


@pytest.mark.parametrize("seed", range(3))
@every_case
def test_from_any_start_it_is_the_same_optimum(case: Case, seed: int):
    there = minimise(case.problem.at(3 * draw(case.p, seed=seed)), 1e-10)
    assert float(there.gradient().norm()) <= 1e-10
    shift = there.gauge
    off = there.theta - case.problem.theta
    if shift is not None:  # softmax does not see a shift of all outputs
        off = off - (off @ shift.T) @ shift
    assert float(off.norm()) < 1e-6 * float(case.problem.theta.norm())


@pytest.mark.parametrize(
    "name", ["softmax total intercept", "logistic n < p intercept", "squared two outputs"]
)
def test_many_parameters_are_trained_without_a_matrix(name: str, monkeypatch: pytest.MonkeyPatch):
    case = BY_NAME[name]
    monkeypatch.setattr(newton_training, "DENSE", 0)
    monkeypatch.setattr("upweight.linear.second_derivative.LinearHessian.matrix", None)
    there = minimise(case.problem.at(torch.zeros(case.p).double()), 1e-10)
    assert float(there.gradient().norm()) <= 1e-10
    assert_close_per_row(there.theta, case.problem.theta, 1e-7)


def test_training_ends_where_it_begins_if_that_is_good_enough():
    problem = BY_NAME["softmax"].problem
    assert torch.equal(minimise(problem, 1e-8).theta, problem.theta)
    rough = minimise(problem.at(problem.theta + 1e-3), 1e-2)
    assert torch.equal(rough.theta, problem.theta + 1e-3)


def test_of_many_optima_it_is_the_nearest():
    """Softmax without any penalty is flat along shifts: training does not move along them, from wherever it starts."""
    X, y = draw(60, 3), torch.arange(60) % 3
    problem = LinearProblem(X, y, 0 * draw(3, 3), loss=Softmax())
    shift = problem.gauge
    assert shift is not None
    ends = []
    for seed in range(3):
        start = draw(9, seed=seed)
        end = minimise(problem.at(start), 1e-11).theta
        assert float(((end - start) @ shift.T).norm()) < 1e-9
        ends.append(end - (end @ shift.T) @ shift)
    assert_close_per_row(torch.stack(ends), ends[0].expand(3, -1), 1e-8)


@given(
    st.integers(0, 99),
    st.floats(1e-3, 10),
    st.sampled_from([Logistic(), Softmax(), Squared()]),
    st.booleans(),
    st.floats(1e-2, 1e2),
)
@settings(max_examples=25)
def test_any_penalised_problem_is_trained_to_its_tolerance(seed, l2, loss, intercept, scale):
    X = scale * draw(15, 3, seed=seed)
    y = draw(15, 2, seed=seed + 1)
    y = y if isinstance(loss, Squared) else (y[:, 0] > 0).long()
    outputs = 1 if isinstance(loss, Logistic) else 2
    options = {"l2": l2, "l2_intercept": l2} if intercept else {"l2": l2}
    problem = LinearProblem.fit(
        X, y, loss=loss, outputs=outputs, intercept=intercept, tolerance=1e-9, **options
    )
    assert float(problem.gradient().norm()) <= 1e-9
    for step in 1e-3 * draw(4, problem.p, seed=seed + 2):
        assert problem.at(problem.theta + step).value() >= problem.value()


def test_overshooting_steps_are_halved():
    """Far out a logistic loss is flat, and a full Newton step goes further still."""
    X, y = torch.tensor([[1.0], [2.0], [-1.0], [0.5]]), torch.tensor([1, 1, 0, 0])
    problem = LinearProblem(X, y, torch.tensor([[-9.0]]), loss=Logistic(), l2=1e-3)
    step = problem.gradient() / problem.hessian.matrix()[0]
    assert problem.at(problem.theta - step).value() > problem.value()
    there = minimise(problem, 1e-11)
    grid = torch.linspace(-2, 4, 4001).double()
    values = [problem.at(theta[None]).value() for theta in grid]
    assert float(there.theta) == pytest.approx(float(grid[values.index(min(values))]), abs=2e-3)


def test_a_tolerance_below_rounding_is_a_failure_that_says_how_far_it_came():
    case = BY_NAME["squared two outputs"]
    with pytest.raises(NotConvergedError, match=r"stopped at gradient norm \S+e-1[3-9], wanted 1e-30"):
        minimise(case.problem, 1e-30)


def test_flat_directions_do_no_harm():
    """A repeated column without penalty: many optima, and a Hessian that is singular."""
    X, y = draw(30, 2), draw(30, seed=1)
    problem = LinearProblem.fit(torch.cat([X, X], 1), y, loss=Squared(), tolerance=1e-9)
    alone = LinearProblem.fit(X, y, loss=Squared(), tolerance=1e-11)
    assert_close_per_row(problem.theta[:2] + problem.theta[2:], alone.theta, 1e-6)


def hinge_data(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    X = draw(80, 3, seed=seed)
    return X, (X[:, 0] + draw(80, seed=seed + 10) > 0).long()


@pytest.mark.parametrize("l2", [1e-4, 1e-2, 1.0])
@pytest.mark.parametrize("seed", range(4))
def test_sharp_hinges_are_trained_by_softer_ones(seed: int, l2: float):
    """Newton steps alone do not get there; the true objective there is libsvm's, but for the smoothing."""
    X, y = hinge_data(seed)
    start = LinearProblem(X, y, draw(1, 3, seed=5), torch.zeros(1), loss=SmoothHinge(1e-3), l2=l2)
    trained = minimise(start, 1e-9)
    assert trained.loss == SmoothHinge(1e-3)
    assert float(trained.gradient().norm()) <= 1e-9
    judge = SVC(kernel="linear", C=1 / (l2 * 80), tol=1e-10).fit(X.numpy(), y.numpy())
    coef, bias = torch.tensor(judge.coef_[0]), torch.tensor(judge.intercept_)
    signs = 2 * y.double() - 1

    def true_objective(coef: torch.Tensor, bias: torch.Tensor) -> float:
        return float((1 - signs * (X @ coef + bias)).clamp(min=0).mean() + 0.5 * l2 * coef @ coef)

    best = true_objective(coef, bias)
    assert best - 1e-9 <= true_objective(trained.theta[:3], trained.theta[3:]) <= best + 1e-3


def test_a_hinge_that_cannot_be_trained_is_a_failure():
    X, y = hinge_data(0)
    problem = LinearProblem(X, y, torch.zeros(3), loss=SmoothHinge(1e-3), l2=1e-2)
    with pytest.raises(NotConvergedError, match="wanted 1e-30"):
        minimise(problem, 1e-30)


@pytest.mark.parametrize("far", [10.0, 1000.0])
@pytest.mark.parametrize("loss", [Logistic(), SquaredHinge(), Softmax(), Logistic(pairs="surest")], ids=str)
def test_a_start_far_away_ends_at_the_same_optimum(loss, far: float):
    """Few rows: far away outputs have next to no curvature, and no part of a Newton step lets the objective fall."""
    rng = np.random.default_rng(0)
    X, y = torch.from_numpy(rng.normal(size=(40, 3))), torch.from_numpy(rng.integers(0, 4, 40))
    c = {"Softmax": 4, "Logistic": 6 if loss != Logistic() else 1}.get(type(loss).__name__, 1)
    y = y if c > 1 else (y > 1).long()
    start = LinearProblem(X, y, np.zeros((c, 3)), loss=loss, l2=1 / 40)
    there = start.at(far * torch.from_numpy(rng.normal(size=start.p))).minimised()
    assert_close_per_row(there.theta[None], start.minimised().theta[None], 1e-7)

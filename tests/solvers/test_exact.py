"""Exact inverses: the dual side, refinement, closed forms, and the residual that tells where rounding ends them."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tests.support.cases import BY_NAME, draw
from tests.support.compare import assert_close_per_row
from tests.support.curvatures import clustered, damped, eye, relative, solved, with_eigenvalues
from upweight import (
    EKFAC,
    Arnoldi,
    ConjugateGradient,
    Dense,
    Exact,
    GaussNewton,
    Hessian,
    LiSSA,
    NotConvergedError,
    Nystrom,
    Problem,
)
from upweight.linalg.factorizations import CholeskyFactor
from upweight.solvers import Status


@pytest.mark.parametrize(
    "name", ["logistic n < p intercept", "squared two outputs sparse n < p", "softmax n < p"]
)
def test_the_dual_side_equals_the_primal_one(name: str):
    curvature, A = damped(BY_NAME[name])
    assert type(curvature.factor()).__name__ == "DualFactor"
    undamped = Hessian(BY_NAME[name].problem)
    rows = draw(5, undamped.p)
    assert_close_per_row(curvature.factor().solve(rows), torch.linalg.solve(A, rows.T).T, 1e-9)
    wanted = Dense(undamped.matrix()).factor()
    assert_close_per_row(undamped.factor().solve(rows), wanted.solve(rows), 1e-7)
    assert_close_per_row(undamped.factor().quadratic(rows), wanted.quadratic(rows), 1e-7)


class Rough(Dense):
    """A dense curvature whose factor is that of a matrix nearby: the first answers are off by its relative change."""

    def factor(self, dtype=None):
        factor = CholeskyFactor(self.explicit * (1 + 1e-4))
        factor.product = self.operator()
        return factor


def test_one_refinement_squares_the_error_of_the_first_answer():
    curvature, rows = Rough(with_eigenvalues(torch.linspace(1, 2, 8))), draw(3, 8)
    solution = Exact(rtol=1e-6).prepare(curvature)(rows)
    assert bool((solution.residual < 1.1e-8).all())
    assert_close_per_row(solution.value, solved(curvature.explicit, rows), 1e-7)
    rough = Exact(rtol=1e-3).prepare(curvature)(rows)  # good enough at once
    assert bool((rough.residual > 0.9e-4).all())


def test_what_float32_cannot_solve_says_so_and_float64_can():
    A = with_eigenvalues(torch.cat([torch.tensor([1e-6]), torch.linspace(0.5, 1, 39)]))
    weak = torch.linalg.eigh(A)[1][
        :, :1
    ].T  # along the smallest eigenvalue the answer is a million times the row
    inverse = Exact().prepare(Dense(A.float()))
    with pytest.raises(
        NotConvergedError, match=r"1 solve not converged; largest relative residual .*damping"
    ):
        inverse(weak)
    solution = inverse(weak, throw=False)
    assert solution.status == (Status.NOT_CONVERGED,)
    assert float(solution.residual) > 1e-3
    good = Exact().prepare(Dense(A))(weak)
    assert_close_per_row(good.value, 1e6 * weak, 1e-6)
    assert Exact().prepare(Dense(A.float(), damping=0.1))(weak).ok


def network(dtype: torch.dtype) -> Problem:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).to(dtype)
    train = torch.randn(30, 4).to(dtype), torch.randint(0, 3, (30,))
    return Problem(model, F.cross_entropy, train, l2=1e-3)


def test_a_float32_network_is_solved_in_float64():
    """The explicit matrix affords it; the residual is known before the answer is rounded."""
    rows = draw(3, 43)
    single, double = (GaussNewton(network(dtype), 1e-4) for dtype in (torch.float32, torch.float64))
    solution = Exact().prepare(single)(rows)
    assert solution.value.dtype == solution.residual.dtype == torch.float32
    assert float(solution.residual.max()) < 1e-8
    rounding = 1e-6 * float(double.spectrum()[1]) / 1e-4
    assert_close_per_row(solution.value, Exact().prepare(double)(rows).value, rounding)


@pytest.mark.parametrize("name", ["softmax", "logistic n < p intercept", "squared two outputs"])
def test_closed_forms_are_inverses_of_their_own_operators(name: str):
    problem = BY_NAME[name].problem
    rows = draw(4, problem.p)
    for curvature in (EKFAC(problem, 1e-4), EKFAC(problem, 1e-4, leading=2), Nystrom(Hessian(problem, 1e-4))):
        inverse = Exact().prepare(curvature)
        solution = inverse(rows)
        assert float(relative(curvature.operator()(eye(problem.p)), solution.value, rows).max()) < 1e-6
        assert inverse.quadratic is not None
        quadratic = inverse.quadratic(rows)
        assert_close_per_row(quadratic[:, None], (rows * solution.value).sum(1, keepdim=True), 1e-6)


def test_quadratic_forms_are_those_of_the_answers_and_exact_for_factors_alone():
    case = BY_NAME["softmax"]
    curvature, A = damped(case)
    rows = draw(5, case.p)
    inverse = Exact().prepare(curvature)
    assert inverse.exact
    assert inverse.quadratic is not None
    assert_close_per_row(
        inverse.quadratic(rows)[:, None], (rows * solved(A, rows)).sum(1, keepdim=True), 1e-7
    )
    for solver in (ConjugateGradient(), LiSSA(depth=1), Arnoldi(rank=2)):
        assert not solver.prepare(curvature).exact
    assert ConjugateGradient().prepare(curvature).quadratic is None


def test_the_curvature_is_factorised_once_for_all_questions(monkeypatch):
    curvature, count = clustered(20), [0]
    factor = Dense.factor

    def counted(self, dtype=None):
        count[0] += 1
        return factor(self, dtype)

    monkeypatch.setattr(Dense, "factor", counted)
    inverse = Exact().prepare(curvature)
    answers = torch.cat([inverse(row[None]).value for row in draw(4, 20)])
    assert count == [1]
    assert_close_per_row(answers, solved(curvature.explicit, draw(4, 20)), 1e-9)
    assert inverse(draw(4, 20)).steps.tolist() == [1] * 4


def test_each_row_is_judged_by_its_own_residual(monkeypatch: pytest.MonkeyPatch):
    """A row that the factor solves wrongly is not converged beside one that it solves rightly."""
    A = torch.diag(torch.tensor([1.0, 1e-3, 2.0], dtype=torch.float64))
    curvature = Dense(A)
    factor = CholeskyFactor(A)
    right = factor.solve

    def solve(rows: torch.Tensor) -> torch.Tensor:
        found = right(rows)
        return found + torch.tensor([0.0, 0.5, 0.0]) * (rows[:, 1:2] != 0)  # off along one direction, always

    monkeypatch.setattr(factor, "solve", solve)
    monkeypatch.setattr(Dense, "factor", lambda self, dtype=None: factor)
    found = Exact(rtol=1e-6).prepare(curvature)(torch.eye(3).double()[:2], throw=False)
    assert found.status == (Status.CONVERGED, Status.NOT_CONVERGED)
    assert float(found.residual[0]) < 1e-12
    assert float(found.residual[1]) > 1e-6
    with pytest.raises(NotConvergedError):
        Exact(rtol=1e-6).prepare(curvature)(torch.eye(3).double()[:2])

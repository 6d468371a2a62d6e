"""What all solvers have in common, against torch.linalg.solve at small damping; failures are failures."""

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.cases import BY_NAME, CASES, Case, case_id, draw
from tests.support.compare import assert_close_per_row, residual_in_units
from tests.support.curvatures import clustered, damped, eye, relative, solved, with_eigenvalues
from upweight import (
    EKFAC,
    Arnoldi,
    ConjugateGradient,
    Dense,
    Exact,
    Hessian,
    IndefiniteError,
    Influence,
    InfluenceError,
    LinearProblem,
    LiSSA,
    NotConvergedError,
    Squared,
)
from upweight.curvature.base import Curvature
from upweight.solvers import Inverse, Solution, Solver, Status
from upweight.solvers.accuracy import relative_residual
from upweight.solvers.base import REMEDIES

every_case = pytest.mark.parametrize("case", CASES, ids=case_id)
SUBSET = torch.arange(0, 6)


def solvers_of(case: Case):
    problem = case.problem
    plain: dict[str, Any] = {"rtol": 1e-11, "max_steps": 600}
    near = {
        "cg ekfac": EKFAC(problem, 1e-3),
        "cg ekfac rows": EKFAC(problem, 1e-3, rows=6),
        "cg ekfac leading": EKFAC(problem, 1e-3, leading=2),
        "cg subset": Hessian(problem.subset(SUBSET), 0.05),
    }
    helped = {name: ConjugateGradient(**plain, preconditioner=other) for name, other in near.items()}
    return {"exact": Exact(), "cg": ConjugateGradient(**plain), **helped}


@pytest.mark.parametrize(
    "name", ["exact", "cg", "cg ekfac", "cg ekfac rows", "cg ekfac leading", "cg subset"]
)
@every_case
def test_answers_and_residuals(case: Case, name: str):
    curvature, A = damped(case)
    rows = torch.cat([draw(case.p + 3, case.p), torch.zeros(1, case.p).double()])  # k > p, and a zero row
    rows[1] *= 1e-12
    rows[2] *= 1e12
    solution = solvers_of(case)[name].prepare(curvature)(rows)
    assert_close_per_row(solution.value, solved(A, rows), 1e-7)
    assert set(solution.status) == {Status.CONVERGED}
    assert solution.ok
    assert torch.equal(solution.value[-1], torch.zeros(case.p).double())
    true = residual_in_units(curvature, A, solution.value, rows)
    assert float((solution.residual - true).abs().max()) < 1e-9
    assert float(true.max()) <= 1e-6 if name == "exact" else float(true.max()) <= 1.1e-11


@settings(max_examples=8)
@given(
    st.lists(st.integers(0, 9), min_size=1, max_size=14),
    st.sampled_from(["softmax", "logistic n < p intercept"]),
)
def test_a_row_does_not_depend_on_its_companions(picked: list[int], name: str):
    case = BY_NAME[name]
    curvature, _ = damped(case)
    rows = draw(10, case.p) * torch.logspace(-6, 6, 10).double()[:, None]
    for solver in (Exact(), ConjugateGradient(rtol=1e-12, max_steps=600)):
        inverse = solver.prepare(curvature)
        alone = torch.cat([inverse(rows[i : i + 1]).value for i in picked])
        assert_close_per_row(inverse(rows[picked]).value, alone, 1e-8)


@pytest.mark.parametrize("size", [1e-36, 1e-20, 1e-10, 1e10, 1e20, 1e36])
@pytest.mark.parametrize("name", ["exact", "cg", "cg ekfac"])
def test_the_size_of_a_right_hand_side_does_not_matter(name: str, size: float):
    """Gradients of well-classified test points are that small; single precision must not underflow."""
    case = BY_NAME["softmax n < p"]
    inverse = solvers_of(case)[name].prepare(damped(case)[0])
    rows = draw(6, case.p)
    assert_close_per_row(inverse(size * rows).value / size, inverse(rows).value, 1e-8)


@pytest.mark.parametrize("p", [6, 80])
@pytest.mark.parametrize("solver", [Exact(), ConjugateGradient()])
def test_indefinite_names_the_eigenvalue_and_the_cure(solver, p: int):
    A = with_eigenvalues(torch.cat([torch.tensor([-0.75]), torch.linspace(1, 4, p - 1)]))
    with pytest.raises(
        IndefiniteError, match=r"most negative eigenvalue is -\S+ A damping above \S+"
    ) as caught:
        solver.prepare(Dense(A, damping=0.25))(draw(1, p))
    assert caught.value.eigenvalue == pytest.approx(-0.5, rel=0.05)
    rows = draw(2, p)
    solution = solver.prepare(Dense(A, damping=1.0))(rows)
    assert_close_per_row(solution.value, solved(A + eye(p), rows), 1e-4)


def singular(n: int) -> LinearProblem:
    X = draw(n, 5)
    X[:, 2] = 0
    return LinearProblem(X, draw(n, seed=1), draw(5, seed=2), loss=Squared(), l2=0.0)


@pytest.mark.parametrize("n", [20, 5, 3])
def test_singular_is_refused(n: int):
    with pytest.raises(IndefiniteError, match=r"singular.*damping > 0"):
        Exact().prepare(Hessian(singular(n)))(draw(1, 5))
    with pytest.raises(InfluenceError):
        ConjugateGradient().prepare(Hessian(singular(n)))(draw(1, 5))


def test_repeated_columns_never_pass_silently():
    X = draw(20, 3)
    problem = LinearProblem(torch.cat([X, X], 1), draw(20, seed=1), draw(6, seed=2), loss=Squared(), l2=0.0)
    for solver in (Exact(), ConjugateGradient()):
        with pytest.raises(InfluenceError):
            solver.prepare(Hessian(problem))(draw(1, 6))


@pytest.mark.parametrize("shape", [(0, 12), (2, 11), (12,)])
def test_wrong_shapes_of_right_hand_sides(shape):
    inverse = Exact().prepare(Hessian(BY_NAME["softmax"].problem))
    with pytest.raises((ValueError, TypeError)):  # TypeError: jaxtyping, in tests only
        inverse(torch.zeros(shape, dtype=torch.float64))


def test_not_finite_right_hand_sides():
    rows = draw(3, 12)
    rows[1, 4] = torch.nan
    with pytest.raises(InfluenceError, match="right-hand side 1 has a NaN"):
        Exact().prepare(Hessian(BY_NAME["softmax"].problem))(rows)


# -- an inverse ------------------------------------------------------------------------------------------------------


def test_rows_of_zeros_are_answered_without_a_solve_and_others_in_the_curvatures_precision():
    seen = []

    def solve(rows: torch.Tensor) -> Solution:
        seen.append(rows.dtype)
        return Solution(rows, rows.norm(dim=1), torch.ones(len(rows), dtype=torch.long), (Status.CONVERGED,))

    inverse = Inverse(Dense(torch.eye(3)), solve)
    zero = inverse(torch.zeros(2, 3, dtype=torch.float64))
    assert seen == []
    assert zero.value.dtype == torch.float32
    assert not bool(zero.value.any() or zero.residual.any() or zero.steps.any())
    assert zero.status == (Status.CONVERGED,) * 2
    assert zero.ok
    inverse(torch.ones(1, 3, dtype=torch.float64))
    assert seen == [torch.float32]


def solution(*status: Status, residual: float = 0.25) -> Solution:
    rows = torch.ones(len(status), 2, dtype=torch.float64)
    return Solution(
        rows, torch.full((len(status),), residual).double(), torch.arange(len(status)) + 3, status
    )


@pytest.mark.parametrize("status", Status)
def test_only_converged_and_estimated_answers_may_be_used(status: Status):
    found = solution(Status.CONVERGED, status)
    usable = status in (Status.CONVERGED, Status.ESTIMATED)
    assert found.ok == usable
    assert (status in REMEDIES) == (not usable)
    if usable:
        assert found.check() is found
        return
    error = IndefiniteError if status is Status.NEGATIVE_CURVATURE else NotConvergedError
    with pytest.raises(error, match=REMEDIES[status]) as caught:
        found.check()
    assert type(caught.value) is error
    inverse = Inverse(Dense(torch.eye(2)), lambda rows: found)
    with pytest.raises(error, match=REMEDIES[status]):
        inverse(torch.ones(2, 2))
    assert inverse(torch.ones(2, 2), throw=False).status == found.status


def test_one_sentence_says_how_all_rows_ended():
    assert solution(Status.CONVERGED).verdict == (
        "1 solve converged; largest relative residual 2.5e-01, at most 3 steps"
    )
    several = solution(Status.NOT_CONVERGED, Status.CONVERGED, Status.NEGATIVE_CURVATURE).verdict
    assert several.startswith("3 solves converged, negative curvature, not converged; largest relative")
    assert "at most 5 steps" in several
    assert several.endswith(f"; {REMEDIES[Status.NOT_CONVERGED]}; {REMEDIES[Status.NEGATIVE_CURVATURE]}")


@pytest.mark.parametrize("precision", [None, torch.float32, torch.bfloat16])
def test_answers_are_rounded_to_the_precision_that_they_have(precision: torch.dtype | None):
    value = draw(2, 3)
    found = Solution(value, value.norm(dim=1), torch.ones(2).long(), (Status.CONVERGED,) * 2, precision)
    assert found.rounded.dtype == (precision or torch.float64)
    assert torch.equal(found.rounded, value.to(precision or torch.float64))


@given(st.integers(1, 5), st.integers(1, 6), st.integers(0, 99), st.floats(-30, 30))
def test_residuals_are_relative_to_each_row(k: int, p: int, seed: int, size: float):
    A, rows, value = draw(p, p, seed=seed), draw(k, p, seed=seed + 1), draw(k, p, seed=seed + 2)
    scale = 10.0 ** (size * torch.rand(k, 1).double())
    found = relative_residual(lambda s: s @ A.T, scale * value, scale * rows)
    assert_close_per_row(found[:, None], relative(A.T, value, rows)[:, None], 1e-9)
    assert not bool(relative_residual(lambda s: s, 0 * rows, 0 * rows).any())


# -- a solver --------------------------------------------------------------------------------------------------------


def test_only_conjugate_gradients_with_one_have_a_preconditioner():
    other = Dense(torch.eye(2))
    assert ConjugateGradient(preconditioner=other).preconditioner is other
    for solver in (Exact(), ConjugateGradient(), LiSSA(), Arnoldi()):
        assert solver.preconditioner is None


@pytest.mark.parametrize("solver", [Exact(rtol=1e-3), ConjugateGradient(), LiSSA(), Arnoldi()])
def test_solvers_are_settings_that_never_change(solver: Solver):
    assert solver == type(solver)(**vars(solver))
    with pytest.raises(AttributeError):
        solver.seed = 1  # type: ignore[attr-defined]


@dataclass(frozen=True)
class Doubling(Solver):
    """A solver of somebody's own, with the one method that it needs: Newton's iteration for an explicit inverse."""

    rounds: int = 60

    def prepare(self, curvature: Curvature) -> Inverse:
        A = curvature.operator()(eye(curvature.p))
        X = A / A.norm() ** 2
        for _ in range(self.rounds):
            X = X @ (2 * eye(curvature.p) - A @ X)

        def solve(rows: torch.Tensor) -> Solution:
            value = rows @ X
            residual = relative_residual(curvature.operator(), value, rows)
            return Solution(
                value, residual, torch.full((len(rows),), self.rounds), (Status.ESTIMATED,) * len(rows)
            )

        return Inverse(curvature, solve)


def test_a_solver_of_ones_own_answers_all_questions():
    rows, curvature = draw(3, 30), clustered(30)
    assert_close_per_row(Doubling().prepare(curvature)(rows).value, solved(curvature.explicit, rows), 1e-9)
    problem, test = BY_NAME["softmax"].problem, BY_NAME["softmax"].test
    own, exact = (Influence(problem, solver=solver) for solver in (Doubling(), Exact()))
    assert_close_per_row(own.on_loss(test).values, exact.on_loss(test).values, 1e-8)
    assert_close_per_row(own.on_self().values.T, exact.on_self().values.T, 1e-8)
    assert "60 steps" in own.on_loss(test).verdict

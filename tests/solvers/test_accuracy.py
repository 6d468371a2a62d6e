"""Residuals and bounds that do not depend on units, against explicit matrices."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.cases import BY_NAME, CASES, Case, case_id, draw
from tests.support.compare import assert_close_per_row
from tests.support.curvatures import damped, solved, with_eigenvalues
from upweight import (
    EKFAC,
    ConjugateGradient,
    Dense,
    Exact,
    GaussNewton,
    Hessian,
    Influence,
    LinearProblem,
    LiSSA,
    Logistic,
    NotConvergedError,
    Nystrom,
    Softmax,
    Squared,
)
from upweight.solvers import Status, accuracy

every_case = pytest.mark.parametrize("case", CASES, ids=case_id)


def true_energy(A: torch.Tensor, left: torch.Tensor) -> torch.Tensor:
    return (left * solved(A, left)).sum(1)


@every_case
@pytest.mark.parametrize("damping", [0.0, 1e-3])
def test_bounds_are_bounds_and_those_of_a_factor_are_tight(case: Case, damping: float):
    curvature = Hessian(case.problem, damping)
    if damping == 0 and case.problem.gauge is not None:
        return  # no inverse to compare with
    A, there = curvature.matrix(), curvature.coordinates
    if float(torch.linalg.eigvalsh(A)[0]) < 1e-9:
        return
    left, nothing = draw(4, case.p), torch.zeros(4, case.p).double()
    wanted = true_energy(A, left)
    tight = accuracy.by_factor(curvature)(there.inward(left), nothing)
    assert_close_per_row(tight[:, None], wanted[:, None], 1e-6)
    loose = accuracy.by_floor(curvature, accuracy.own_operator(curvature))
    if loose is not None:
        assert bool((loose(there.inward(left), nothing) >= wanted * (1 - 1e-9)).all())


@pytest.mark.parametrize("name", ["logistic n < p intercept", "logistic sparse intercept weights"])
def test_the_bound_by_a_floor_holds_along_what_has_none(name: str):
    """An intercept without a penalty is eliminated: residuals of it alone have an error too."""
    curvature = Hessian(BY_NAME[name].problem)
    assert curvature.floor is not None
    free = (curvature.floor == 0).nonzero()[:, 0]
    assert len(free)
    left = torch.eye(curvature.p, dtype=torch.float64)[free]
    there = curvature.coordinates
    loose = accuracy.by_floor(curvature, accuracy.own_operator(curvature))
    assert loose is not None
    wanted = true_energy(curvature.matrix(), left)
    assert bool((loose(there.inward(left), torch.zeros_like(left)) >= wanted * (1 - 1e-9)).all())


@every_case
def test_the_operator_is_that_of_the_coordinates(case: Case):
    curvature = Hessian(case.problem)
    there, rows = curvature.coordinates, draw(3, case.p)
    A = curvature.matrix()
    wanted = there.inward(there.outward(rows) @ A)
    assert_close_per_row(accuracy.own_operator(curvature)(rows), wanted, 1e-8)


def test_errors_are_those_of_the_norm_of_the_curvature():
    A = with_eigenvalues(torch.logspace(-4, 0, 20).double())
    curvature, rows = Dense(A), draw(5, 20)
    truth = solved(A, rows)
    value = truth + 1e-3 * draw(5, 20, seed=1)
    energy, there = accuracy.by_factor(curvature), curvature.coordinates
    found = accuracy.checked(
        accuracy.own_operator(curvature), energy, there.parameters(value), there.inward(rows)
    )
    off = ((value - truth) @ A * (value - truth)).sum(1) / (value * rows).sum(1)
    assert_close_per_row(found.error[:, None], off.sqrt()[:, None], 1e-6)
    assert_close_per_row(there.derivatives(found.left), rows - value @ A, 1e-9)


@pytest.mark.parametrize("size", [1e-200, 1e-30, 1.0, 1e30, 1e200])
def test_the_size_of_a_right_hand_side_does_not_matter(size: float):
    A = with_eigenvalues(torch.logspace(-4, 0, 20).double())
    rows = size * draw(2, 20)
    for solver in (Exact(), ConjugateGradient(rtol=1e-10)):
        found = solver.prepare(Dense(A))(rows)
        assert_close_per_row(found.value / size, solved(A, rows / size), 1e-5)
        assert found.error is not None
        assert float(found.error.max()) < 1e-6
    nothing = Exact().prepare(Dense(A))(torch.cat([rows, 0 * rows]))
    assert nothing.error is not None
    assert nothing.error[2:].tolist() == [0.0, 0.0]


LOSSES = {"squared": Squared(), "logistic": Logistic(), "softmax": Softmax()}


def in_other_units(loss: str, exponents: list[int]) -> tuple[LinearProblem, LinearProblem, torch.Tensor]:
    """A problem, the same one with its columns in other units, and what its gradients are multiplied with."""
    n, d, c = 40, len(exponents), 3 if loss == "softmax" else 1
    X, y, coef = draw(n, d), torch.arange(n) % max(2, c), draw(c, d, seed=1)
    unit = torch.exp2(torch.tensor(exponents).double())
    l2 = 10.0 ** -(1 + torch.arange(d).double())
    one = LinearProblem(X, y, coef, loss=LOSSES[loss], l2=l2.repeat(c))
    other = LinearProblem(X * unit, y, coef / unit, loss=LOSSES[loss], l2=(l2 * unit**2).repeat(c))
    return one, other, unit.repeat(c)


@settings(max_examples=15, deadline=None)
@given(
    st.lists(st.integers(-40, 40), min_size=2, max_size=6),
    st.sampled_from(sorted(LOSSES)),
    st.sampled_from(["exact", "plain", "nystrom"]),
)
def test_units_change_nothing_at_all(exponents: list[int], loss: str, name: str):
    """Powers of two are exact: the same steps, residuals and bounds, and the same scores to the last bits."""
    one, other, unit = in_other_units(loss, exponents)
    found = []
    for problem, scale in ((one, 1.0), (other, unit)):
        near = Nystrom(Hessian(problem), rank=2) if name == "nystrom" else None
        solver = Exact() if name == "exact" else ConjugateGradient(preconditioner=near)
        rows = problem.train_gradients(torch.arange(3)) / scale
        found.append((solver.prepare(Hessian(problem))(rows * scale), scale))
    (a, _), (b, scale) = found
    close = 1e-12 if name != "nystrom" else 5e-3  # two ways there, each within the bound
    assert_close_per_row(b.value * scale, a.value, close)
    if name != "nystrom":  # of units that are comparable already, directions are drawn as they are
        assert torch.equal(a.steps, b.steps)
        assert bool(((a.residual - b.residual).abs() <= 1e-6 * a.residual + 1e-14).all())
    for solution in (a, b):
        assert solution.error is not None
        assert float(solution.error.max()) <= accuracy.ACCURATE


@pytest.mark.parametrize("preconditioner", [None, "ekfac", "nystrom"])
def test_a_rate_an_income_and_a_debt(preconditioner: str | None):
    """The residual's norm sees the debt alone: conjugate gradients used to end with scores 57 to 101 % off."""
    n = 400
    unit, mean = torch.tensor([0.01, 2e4, 9e5]).double(), torch.tensor([0.03, 6e4, 2e6]).double()
    Z = draw(n, 3)
    y = (Z[:, 0] * 3 + Z[:, 1] + draw(n, seed=1) > 0).long()
    plain = LinearProblem.fit(Z, y, loss=Logistic(), l2=1e-3, intercept=True)
    w = plain.theta[:3] / unit
    l2 = torch.cat([1e-3 * unit**2, torch.zeros(1).double()])
    own = LinearProblem(Z * unit + mean, y, w, plain.theta[3:] - w @ mean, loss=Logistic(), l2=l2)
    near = {None: None, "ekfac": EKFAC(own), "nystrom": Nystrom(Hessian(own), rank=2)}[preconditioner]
    wanted = Influence(plain, solver=Exact()).on_loss((Z[:3], y[:3])).values
    for solver in (ConjugateGradient(preconditioner=near), Exact()):
        scores = Influence(own, solver=solver).on_loss((Z[:3] * unit + mean, y[:3]))
        assert_close_per_row(scores.values, wanted, 1e-5)
        assert "off by at most" in scores.verdict


def test_a_residual_that_looks_good_is_not_believed_where_the_error_may_be_large():
    """Two columns that are nearly one: what tells them apart is a millionth of what is seen of both."""
    X = draw(60, 2)
    X[:, 1] = X[:, 0] + 1e-6 * X[:, 1]
    problem = LinearProblem(X, draw(60), draw(2), loss=Squared(), l2=1e-16)
    rows = problem.train_gradients(torch.arange(3))
    wanted = Exact().prepare(Hessian(problem))(rows).value
    # The first step already has a small residual, and knows nothing of the difference.
    short = ConjugateGradient(rtol=1e-2, max_steps=1).prepare(Hessian(problem))(rows[:1], throw=False)
    assert float(short.residual) < 1e-2
    assert short.status == (Status.NOT_CONVERGED,)
    assert short.error is not None
    assert float(short.error) > 0.05
    with pytest.raises(NotConvergedError, match="scores off by at most"):
        ConjugateGradient(rtol=1e-2, max_steps=1).prepare(Hessian(problem))(rows[:1])
    full = ConjugateGradient(rtol=1e-8).prepare(Hessian(problem))(rows)
    # In the norm of the curvature, in which errors are bounded: that of the outputs.
    assert_close_per_row(full.value @ X.T, wanted @ X.T, 2 * accuracy.ACCURATE)


def test_what_cannot_be_told_apart_is_refused():
    X = draw(60, 2)
    X[:, 1] = X[:, 0] + 1e-8 * X[:, 1]
    problem = LinearProblem(X, draw(60), draw(2), loss=Squared(), l2=1e-30)
    for solver in (Exact(), ConjugateGradient()):
        with pytest.raises((NotConvergedError, ValueError, RuntimeError), match=r"singular|not converged"):
            Influence(problem, solver=solver).on_loss((X[:2], draw(2)))


def test_estimates_state_how_far_they_may_be_off():
    case = next(case for case in CASES if case_id(case) == "softmax")
    curvature, A = damped(case)
    rows = draw(3, case.p)
    found = LiSSA(depth=20, repeats=1).prepare(curvature)(rows)
    assert found.error is not None
    off = ((found.value - solved(A, rows)) @ A * (found.value - solved(A, rows))).sum(1)
    assert bool((found.error**2 * (found.value * rows).sum(1) >= off * (1 - 1e-6)).all())
    assert_close_per_row(found.off, found.error, 0.0)


def test_where_nothing_is_known_of_the_curvature_the_residual_is_all_there_is(monkeypatch):
    monkeypatch.setattr(accuracy, "SMALL", 0)
    monkeypatch.setattr(accuracy, "AFFORDABLE", 0)
    found = ConjugateGradient().prepare(Dense(with_eigenvalues(torch.rand(30) + 0.1)))(draw(2, 30))
    assert found.error is None
    assert "off by" not in found.verdict
    assert_close_per_row(found.off, found.residual, 0.0)


@pytest.mark.parametrize("intercept", [False, True])
def test_beyond_small_sizes_the_penalty_bounds_the_error(intercept: bool):
    n, d = 120, 90
    problem = LinearProblem.fit(
        draw(n, d) * torch.logspace(-6, 6, d).double(),
        torch.arange(n) % 2,
        loss=Logistic(),
        l2=torch.cat([1e-2 * torch.logspace(-12, 12, d).double(), torch.zeros(int(intercept)).double()]),
        intercept=intercept,
    )
    curvature = GaussNewton(problem)
    rows = problem.train_gradients(torch.arange(4))
    A = curvature.matrix()
    found = ConjugateGradient(rtol=1e-4).prepare(curvature)(rows)
    unit = A.diagonal().rsqrt()
    truth = torch.linalg.solve(A * unit * unit[:, None], (rows * unit).T).T * unit
    off = ((found.value - truth) @ A * (found.value - truth)).sum(1).clamp(min=0).sqrt()
    assert found.error is not None
    assert bool((found.error * (found.value * rows).sum(1).sqrt() >= off * (1 - 1e-6)).all())
    assert float(found.error.max()) <= accuracy.ACCURATE

"""Block conjugate gradients against torch.linalg.solve: tolerances, shared Krylov spaces, negative curvature."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.cases import BY_NAME, CASES, Case, case_id, draw
from tests.support.compare import assert_close_per_row, residual_in_units
from tests.support.curvatures import clustered, damped, eye, relative, solved, with_eigenvalues
from upweight import ConjugateGradient, Dense, Hessian, IndefiniteError, NotConvergedError
from upweight.solvers import Status
from upweight.solvers import cg as module

every_case = pytest.mark.parametrize("case", CASES, ids=case_id)


@every_case
def test_loose_tolerances_are_met_and_said(case: Case):
    curvature, A = damped(case)
    rows = draw(3, case.p)
    for rtol in (1e-2, 1e-4, 1e-8):
        solution = ConjugateGradient(rtol=rtol, max_steps=600).prepare(curvature)(rows)
        true = residual_in_units(curvature, A, solution.value, rows)
        if rtol < 1e-4:
            assert bool(((solution.residual - true).abs() <= 1e-6 * true + 1e-14).all())
        else:  # judged in float32, whose rounding is far below 1 % of the tolerance
            assert float((solution.residual - true).abs().max()) <= 1e-2 * rtol
        assert float(true.max()) <= rtol
        assert f"{float(solution.residual.max()):.1e}" in solution.verdict


@pytest.mark.parametrize("precisions", [(torch.bfloat16, torch.float32, torch.float64), (torch.float64,)])
@pytest.mark.parametrize("name", ["softmax", "logistic", "squared two outputs"])
def test_every_ladder_of_precisions_reaches_the_tolerance(name: str, precisions, monkeypatch):
    """Also on processors where bfloat16 has no hardware, and where it is no use."""
    monkeypatch.setattr(BY_NAME[name].problem.design, "precisions", precisions)
    curvature, A = damped(BY_NAME[name])
    rows = draw(5, curvature.p)
    for rtol in (1e-3, 1e-11):
        solution = ConjugateGradient(rtol=rtol, max_steps=600).prepare(curvature)(rows)
        true = (rows - solution.value @ A).norm(dim=1) / rows.norm(dim=1)
        assert solution.ok
        assert float(true.max()) <= 1.1 * rtol


def test_rows_share_their_krylov_space():
    curvature, rows = clustered(300), draw(40, 300)
    inverse = ConjugateGradient(rtol=1e-8).prepare(curvature)
    together = inverse(rows)
    alone = [inverse(row[None]) for row in rows[:5]]
    assert 3 * int(together.steps.max()) < min(int(solution.steps.max()) for solution in alone)
    wanted = torch.linalg.solve(curvature.explicit, rows.T).T
    assert_close_per_row(together.value, wanted, 1e-6)
    assert_close_per_row(torch.cat([solution.value for solution in alone]), wanted[:5], 1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("apart", [0.0, 1e-10, 1e-6, 1e-3])
def test_rows_that_are_nearly_combinations_of_others_are_solved_as_any(apart: float, dtype: torch.dtype):
    base = draw(4, 120)
    rows = torch.cat([base, base + apart * draw(4, 120, seed=1), base.sum(0, keepdim=True), 0 * base[:1]]).to(
        dtype
    )
    curvature = clustered(120, dtype)
    rtol = 1e-4 if dtype == torch.float32 else 1e-10
    solution = ConjugateGradient(rtol=rtol).prepare(curvature)(rows)
    assert solution.ok
    wanted = torch.linalg.solve(curvature.explicit.double(), rows.double().T).T
    assert_close_per_row(solution.value, wanted, 1e3 * rtol)  # rtol times the condition number


def test_one_row_takes_the_steps_of_the_textbook():
    """With one right-hand side the block method is the plain preconditioned one, step by step."""
    curvature, row = clustered(80), draw(1, 80)
    closed = Dense(torch.diag(draw(80, seed=3).abs() + 0.1))
    A, M = curvature.explicit, closed.explicit
    value, r = torch.zeros(80).double(), row[0].clone()
    z = torch.linalg.solve(M, r)
    d = z
    for steps in range(1, 6):
        alpha = (r @ z) / (d @ A @ d)
        value, before, r = value + alpha * d, r @ z, r - alpha * (A @ d)
        z = torch.linalg.solve(M, r)
        d = z + (r @ z) / before * d
        found = ConjugateGradient(rtol=1e-12, max_steps=steps, preconditioner=closed).prepare(curvature)
        assert_close_per_row(found(row, throw=False).value[0], value, 1e-10)


def test_products_that_are_not_finite_are_no_answer_and_no_crash(monkeypatch):
    curvature = clustered(70)
    monkeypatch.setattr(Dense, "semidefinite", True)
    monkeypatch.setattr(Dense, "operator", lambda self, dtype=None: lambda rows: rows * torch.nan)
    solution = ConjugateGradient().prepare(curvature)(draw(3, 70), throw=False)
    assert set(solution.status) == {Status.NOT_CONVERGED}
    assert not solution.ok


def test_too_few_steps_are_a_failure():
    case = BY_NAME["softmax"]
    curvature, A = damped(case)
    rows = draw(2, case.p)
    inverse = ConjugateGradient(rtol=1e-8, max_steps=1).prepare(curvature)
    with pytest.raises(NotConvergedError, match=r"not converged.*allow more steps"):
        inverse(rows)
    solution = inverse(rows, throw=False)
    assert solution.status == (Status.NOT_CONVERGED,) * 2
    assert not solution.ok
    assert solution.steps.tolist() == [1, 1]
    assert_close_per_row(solution.residual, (rows - solution.value @ A).norm(dim=1) / rows.norm(dim=1), 1e-9)


# -- negative curvature ----------------------------------------------------------------------------------------------


def test_negative_curvature_is_seen_within_the_preconditioner():
    Q = torch.linalg.qr(draw(80, 80)).Q
    values = torch.cat([torch.tensor([-0.02]), torch.logspace(0, 3, 79)]).double()
    near = Dense((Q * values.abs()) @ Q.T + 0.01 * torch.eye(80).double())
    curvature = Dense((Q * values) @ Q.T)
    with pytest.raises(IndefiniteError, match=r"most negative eigenvalue is -\S+e-02") as caught:
        ConjugateGradient(preconditioner=near).prepare(curvature)
    assert caught.value.eigenvalue == pytest.approx(-0.02, rel=0.05)
    rows = draw(2, 80)
    solution = ConjugateGradient(preconditioner=near).prepare(curvature.damped(0.1))(rows)
    assert_close_per_row(
        solution.value, torch.linalg.solve(curvature.explicit + 0.1 * torch.eye(80).double(), rows.T).T, 1e-3
    )


def test_negative_curvature_whose_size_the_spectrum_cannot_tell_is_refused_all_the_same():
    """A negative eigenvalue of 1e-6 of the largest, among many like it: the preconditioner brings it out."""
    values = torch.cat([torch.tensor([-1e-3]), torch.logspace(-3, 3, 399)]).double()
    near = Dense(torch.diag(values.abs()))
    with pytest.raises(IndefiniteError, match=r"negative curvature was met.*Raise the damping \(now 0"):
        ConjugateGradient(preconditioner=near).prepare(Dense(torch.diag(values)))
    assert ConjugateGradient(preconditioner=near).prepare(Dense(torch.diag(values.abs())))(draw(1, 400)).ok


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("helped", [False, True])
def test_a_small_negative_eigenvalue_is_seen_with_a_poor_preconditioner_or_none(
    helped: bool, dtype: torch.dtype
):
    """1e-5 of the largest, by itself below the others: where the random solve does not converge the spectrum tells."""
    values = torch.cat([torch.tensor([-1e-2]), torch.linspace(1, 1000, 299)]).double()
    Q = torch.linalg.qr(draw(300, 300)).Q
    A = (Q * values) @ Q.T
    poor = Dense(torch.diag(draw(300, seed=4).abs() + 0.1).to(dtype)) if helped else None
    with pytest.raises(IndefiniteError, match="indefinite"):
        ConjugateGradient(rtol=1e-4, preconditioner=poor).prepare(Dense(((A + A.T) / 2).to(dtype)))


# -- settings --------------------------------------------------------------------------------------------------------


def test_the_preconditioner_must_fit():
    with pytest.raises(ValueError, match="preconditioner has p = 4, the curvature 12"):
        ConjugateGradient(preconditioner=Hessian(BY_NAME["logistic"].problem)).prepare(
            Hessian(BY_NAME["softmax"].problem)
        )


@pytest.mark.parametrize("bad", [{"rtol": 0.0}, {"rtol": 1.0}, {"max_steps": 0}])
def test_bad_settings_of_conjugate_gradients(bad):
    with pytest.raises(ValueError, match="must"):
        ConjugateGradient(**bad)


# -- what a user counts on -------------------------------------------------------------------------------------------


@given(st.integers(1, 12), st.integers(1, 30), st.floats(0, 5), st.integers(0, 99))
@settings(max_examples=25)
def test_any_positive_definite_matrix_is_solved_to_the_tolerance(k: int, p: int, decades: float, seed: int):
    curvature = Dense(with_eigenvalues(torch.logspace(-decades, 0, p), seed))
    rows = draw(k, p, seed=seed + 1)
    solution = ConjugateGradient(rtol=1e-8, max_steps=40 * p).prepare(curvature)(rows)
    true = relative(curvature.explicit, solution.value, rows)
    assert float(true.max()) <= 1.01e-8
    assert_close_per_row(solution.value, solved(curvature.explicit, rows), 1.01e-8 * 10**decades)


@pytest.mark.parametrize("p", [1, 3, 40])
def test_the_matrix_itself_as_preconditioner_takes_one_step(p: int):
    curvature = clustered(p)
    solution = ConjugateGradient(rtol=1e-9, preconditioner=curvature).prepare(curvature)(draw(3, p))
    assert int(solution.steps.max()) == 1


def test_preconditioners_change_the_steps_and_not_the_answer():
    """A matrix near the one that is solved with takes away its spread."""
    A = with_eigenvalues(torch.logspace(-4, 0, 120).double())
    curvature, rows = Dense(A), draw(2, 120)
    near = Dense(A + 1e-5 * with_eigenvalues(torch.rand(120), seed=1))
    plain, helped = (
        ConjugateGradient(rtol=1e-10, max_steps=9000, preconditioner=other).prepare(curvature)(rows)
        for other in (None, near)
    )
    assert_close_per_row(helped.value, solved(curvature.explicit, rows), 1e-5)
    assert_close_per_row(plain.value, helped.value, 1e-5)
    assert 5 * int(helped.steps.max()) < int(plain.steps.max())


def test_below_rounding_it_stops_and_says_how_far_it_came():
    curvature, rows = clustered(50), draw(2, 50)
    solution = ConjugateGradient(rtol=1e-18, max_steps=9000).prepare(curvature)(rows, throw=False)
    assert set(solution.status) == {Status.NOT_CONVERGED}
    assert int(solution.steps.max()) < 2000
    assert float(solution.residual.max()) < 1e-13
    assert_close_per_row(solution.value, solved(curvature.explicit, rows), 1e-11)


@pytest.mark.parametrize(("rtol", "precision"), [(1e-3, torch.float32), (1e-7, torch.float64)])
def test_rounding_to_the_stated_precision_stays_within_the_tolerance(rtol: float, precision: torch.dtype):
    case = BY_NAME["softmax weights float32"]
    curvature, A = damped(case)
    rows = draw(3, case.p)
    solution = ConjugateGradient(rtol=rtol, max_steps=600).prepare(curvature)(rows)
    assert solution.precision == precision
    assert solution.rounded.dtype == precision
    assert float(relative(A, solution.rounded.double(), rows).max()) <= 1.01 * rtol


def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many rows each product of a dense curvature has from now on."""
    sizes: list[int] = []
    operator = Dense.operator

    def watched(self, dtype=None):
        product = operator(self, dtype)

        def one(rows):
            sizes.append(len(rows))
            return product(rows)

        return one

    monkeypatch.setattr(Dense, "operator", watched)
    monkeypatch.setattr(Dense, "semidefinite", True)
    return sizes


def test_rows_that_have_converged_leave(monkeypatch):
    curvature = clustered(200)
    easy = torch.linalg.eigh(curvature.explicit)[1].T[-4:]  # solved in one step each
    sizes = counted(monkeypatch)
    solution = ConjugateGradient(rtol=1e-14, max_steps=9000).prepare(curvature)(
        torch.cat([easy, draw(1, 200)]), throw=False
    )
    assert solution.status[:4] == (Status.CONVERGED,) * 4
    assert int(solution.steps[:4].max()) < int(solution.steps[4])
    assert sizes[0] == 5
    assert sizes[-1] == 1


def test_what_is_known_to_be_semidefinite_is_not_looked_at(monkeypatch):
    case = BY_NAME["logistic"]
    monkeypatch.setattr(Hessian, "spectrum", None)
    assert ConjugateGradient().prepare(Hessian(case.problem))(draw(1, case.p)).ok


@pytest.mark.parametrize("after", [0, 7])
def test_ctrl_c_keeps_the_rows_that_are_finished(after: int, monkeypatch):
    """The first products find the easy row, and the interruption comes in the sweep after it."""
    curvature = Dense(torch.block_diag(eye(1), with_eigenvalues(torch.logspace(-3, 0, 99).double())))
    rows = torch.cat([eye(100)[:1], draw(1, 100)])
    sizes = counted(monkeypatch)
    whole = ConjugateGradient(rtol=1e-13).prepare(curvature)(rows, throw=False)
    second_sweep = [i for i, size in enumerate(sizes) if size == 2][1] + 1  # after the residual of both
    operator, left = Dense.operator, [0]

    def interrupted(self, dtype=None):
        product = operator(self, dtype)

        def one(block):
            left[0] -= 1
            if left[0] == -1:  # once, as somebody presses the keys
                raise KeyboardInterrupt
            return product(block)

        return one

    monkeypatch.setattr(Dense, "operator", interrupted)
    inverse = ConjugateGradient(rtol=1e-13).prepare(curvature)
    left[0] = second_sweep + after if after else 0
    solution = inverse(rows, throw=False)
    assert solution.status[1] is Status.INTERRUPTED
    assert (solution.status[0] is Status.CONVERGED) == bool(after)
    if after:
        assert_close_per_row(solution.value[:1], whole.value[:1], 1e-12)
    left[0] = 0
    with pytest.raises(NotConvergedError, match=r"interrupted.*rows that were finished are right"):
        inverse(rows)


def test_ctrl_c_while_the_curvature_is_digested_is_passed_on(monkeypatch):
    def interrupted(self, dtype=None):
        def one(rows):
            raise KeyboardInterrupt

        return one

    monkeypatch.setattr(Dense, "operator", interrupted)
    with pytest.raises(KeyboardInterrupt):
        ConjugateGradient(preconditioner=Dense(eye(9))).prepare(clustered(9))


# -- its pieces ------------------------------------------------------------------------------------------------------


@given(st.integers(1, 6), st.integers(1, 8), st.integers(0, 99), st.integers(0, 3))
def test_a_basis_in_the_metric_of_the_preconditioner(k: int, p: int, seed: int, repeated: int):
    rows = draw(k, p, seed=seed)
    rows = torch.cat([rows, rows[:repeated].flip(0), 0 * rows[:1]])
    M = with_eigenvalues(torch.logspace(-2, 0, p), seed)
    Q, images, shares = module._orthonormal(rows, lambda v: solved(M, v))
    assert len(Q) == min(k, p)
    assert_close_per_row(shares.T @ Q + 1, rows + 1, 1e-6)
    assert_close_per_row(images, solved(M, Q), 1e-7)
    assert_close_per_row(Q @ images.T, eye(len(Q)), 1e-6)


def test_the_small_inverse_is_a_pseudo_inverse_and_sees_negative_directions():
    A = with_eigenvalues(torch.linspace(1, 2, 6))
    D = draw(3, 6, seed=1)
    inverse = module._inverse(D, D @ A)
    assert inverse is not None
    assert_close_per_row(inverse, torch.linalg.inv(D @ A @ D.T), 1e-10)
    twice = torch.cat([D, D[:1]])
    inverse = module._inverse(twice, twice @ A)
    assert inverse is not None
    assert_close_per_row(inverse @ (twice @ A @ twice.T) @ inverse, inverse, 1e-9)
    assert module._inverse(D, -D @ A) is None
    sizes = torch.tensor([[1e-20], [1.0], [1e20]]).double()
    inverse = module._inverse(sizes * D, sizes * D @ A)
    assert inverse is not None
    assert_close_per_row(sizes * inverse * sizes.T, torch.linalg.inv(D @ A @ D.T), 1e-10)

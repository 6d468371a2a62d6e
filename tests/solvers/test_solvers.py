"""Solvers against torch.linalg.solve on the plain Hessian, at small damping; failures are failures."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.cases import BY_NAME, CASES, Case, case_id, draw
from tests.support.compare import assert_close_per_row
from upweight import (
    EKFAC,
    ConjugateGradient,
    Dense,
    Exact,
    GaussNewton,
    Hessian,
    IndefiniteError,
    InfluenceError,
    LinearProblem,
    LiSSA,
    NotConvergedError,
    Squared,
)
from upweight.linear.second_derivative import LinearHessian
from upweight.solvers import Status

every_case = pytest.mark.parametrize("case", CASES, ids=case_id)
SUBSET = torch.arange(0, 6)


def damped(case: Case) -> tuple[Hessian, torch.Tensor]:
    """A little damping, 1e-5 of the largest eigenvalue, and the explicit matrix."""
    H = case.hessian(case.problem.theta)
    damping = 1e-5 * float(torch.linalg.eigvalsh(H)[-1])
    return Hessian(case.problem, damping), H + damping * torch.eye(case.p).double()


def solvers_of(case: Case):
    problem = case.problem
    return {
        "exact": Exact(),
        "cg": ConjugateGradient(rtol=1e-11, max_steps=600),
        "cg ekfac": ConjugateGradient(rtol=1e-11, max_steps=600, preconditioner=EKFAC(problem, 1e-3)),
        "cg ekfac rows": ConjugateGradient(
            rtol=1e-11, max_steps=600, preconditioner=EKFAC(problem, 1e-3, rows=6)
        ),
        "cg ekfac leading": ConjugateGradient(
            rtol=1e-11, max_steps=600, preconditioner=EKFAC(problem, 1e-3, leading=2)
        ),
        "cg subset": ConjugateGradient(
            rtol=1e-11, max_steps=600, preconditioner=Hessian(problem.subset(SUBSET), 0.05)
        ),
    }


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
    assert_close_per_row(solution.value, torch.linalg.solve(A, rows.T).T, 1e-7)
    assert set(solution.status) == {Status.CONVERGED}
    assert solution.ok
    assert torch.equal(solution.value[-1], torch.zeros(case.p).double())
    true = (rows - solution.value @ A).norm(dim=1) / rows.norm(dim=1).clamp(min=1e-300)
    assert float((solution.residual - true).abs().max()) < 1e-9
    assert float(true.max()) <= 1e-6 if name == "exact" else float(true.max()) <= 1.1e-11


@every_case
def test_loose_tolerances_are_met_and_said(case: Case):
    curvature, A = damped(case)
    rows = draw(3, case.p)
    for rtol in (1e-2, 1e-4, 1e-8):
        solution = ConjugateGradient(rtol=rtol, max_steps=600).prepare(curvature)(rows)
        true = (rows - solution.value @ A).norm(dim=1) / rows.norm(dim=1)
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


def clustered(p: int, dtype: torch.dtype = torch.float64) -> Dense:
    """Eigenvalues of all sizes from 1e-3 to 1, as a damped network has them."""
    Q = torch.linalg.qr(draw(p, p)).Q
    A = (Q * torch.logspace(-3, 0, p).double()) @ Q.T
    return Dense(((A + A.T) / 2).to(dtype))


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


def test_ctrl_c_keeps_what_lissa_has(monkeypatch):
    problem = BY_NAME["softmax"].problem
    curvature, rows, calls = Hessian(problem, 0.1), draw(2, problem.p), []
    sampled = LinearHessian.minibatch_product

    def interrupted(self, *args, **options):
        calls.append(1)
        if len(calls) > 50:
            raise KeyboardInterrupt
        return sampled(self, *args, **options)

    inverse = LiSSA(depth=500, repeats=4, scale=5.0).prepare(curvature)
    wanted = LiSSA(depth=50, repeats=4, scale=5.0).prepare(curvature)(rows).value
    monkeypatch.setattr(LinearHessian, "minibatch_product", interrupted)
    solution = inverse(rows, throw=False)
    assert set(solution.status) == {Status.INTERRUPTED}
    assert_close_per_row(solution.value, wanted, 1e-6)
    with pytest.raises(NotConvergedError, match="interrupted"):
        solution.check()


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


@pytest.mark.parametrize("size", [1e-36, 1e-20, 1e-10, 1e10, 1e20, 1e36])
@pytest.mark.parametrize("name", ["exact", "cg", "cg ekfac"])
def test_the_size_of_a_right_hand_side_does_not_matter(name: str, size: float):
    """Gradients of well-classified test points are that small; single precision must not underflow."""
    case = BY_NAME["softmax n < p"]
    inverse = solvers_of(case)[name].prepare(damped(case)[0])
    rows = draw(6, case.p)
    assert_close_per_row(inverse(size * rows).value / size, inverse(rows).value, 1e-8)


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


@pytest.mark.parametrize("p", [6, 80])
@pytest.mark.parametrize("solver", [Exact(), ConjugateGradient()])
def test_indefinite_names_the_eigenvalue_and_the_cure(solver, p: int):
    Q = torch.linalg.qr(draw(p, p)).Q
    A = Q @ torch.diag(torch.cat([torch.tensor([-0.75]), torch.linspace(1, 4, p - 1)]).double()) @ Q.T
    A = (A + A.T) / 2
    with pytest.raises(
        IndefiniteError, match=r"most negative eigenvalue is -\S+ A damping above \S+"
    ) as caught:
        solver.prepare(Dense(A, damping=0.25))(draw(1, p))
    assert caught.value.eigenvalue == pytest.approx(-0.5, rel=0.05)
    rows = draw(2, p)
    solution = solver.prepare(Dense(A, damping=1.0))(rows)
    cured = A + torch.eye(p).double()
    assert_close_per_row(solution.value, torch.linalg.solve(cured, rows.T).T, 1e-4)


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


def test_the_preconditioner_must_fit():
    with pytest.raises(ValueError, match="preconditioner has p = 4, the curvature 12"):
        ConjugateGradient(preconditioner=Hessian(BY_NAME["logistic"].problem)).prepare(
            Hessian(BY_NAME["softmax"].problem)
        )


@pytest.mark.parametrize("bad", [{"rtol": 0.0}, {"rtol": 1.0}, {"max_steps": 0}])
def test_bad_settings_of_conjugate_gradients(bad):
    with pytest.raises(ValueError, match="must"):
        ConjugateGradient(**bad)


@pytest.mark.parametrize(
    "bad", [{"depth": 0}, {"repeats": 0}, {"batch": 0}, {"scale": 0.0}, {"scale": float("inf")}]
)
def test_bad_settings_of_lissa(bad):
    with pytest.raises(ValueError, match="must"):
        LiSSA(**bad)


# -- LiSSA --------------------------------------------------------------------------------


def identical(keep="mean") -> LinearProblem:
    """Every example the same, so that every sample is the whole curvature and nothing is random."""
    X = torch.tensor([[1.0, 2.0, -1.0]]).repeat(10, 1)
    return LinearProblem(X, torch.ones(10), draw(3), loss=Squared(), l2=0.4, keep=keep)


@pytest.mark.parametrize(
    "settings_",
    [
        {},
        {"scale": 7.0},
        {"scale": 30.0},
        {"repeats": 1},
        {"repeats": 7},
        {"batch": 3},
        {"batch": 3, "scale": 20.0},
    ],
)
@pytest.mark.parametrize("damping", [0.0, 0.3])
def test_lissa_answers_the_damped_question_at_any_scale_and_repeats(damping: float, settings_):
    curvature = Hessian(identical(), damping)
    rows = draw(5, 3)  # more than parameters
    solution = LiSSA(**{"depth": 1500, "repeats": 2, **settings_}).prepare(curvature)(rows)
    A = identical().hessian.matrix() + damping * torch.eye(3).double()
    assert_close_per_row(solution.value, torch.linalg.solve(A, rows.T).T, 1e-4)
    assert_close_per_row(solution.residual, (rows - solution.value @ A).norm(dim=1) / rows.norm(dim=1), 1e-6)
    assert set(solution.status) == {Status.ESTIMATED}


@pytest.mark.parametrize(
    ("name", "batch"), [("softmax", 1), ("squared", 4), ("logistic sparse intercept weights", 2)]
)
def test_lissa_approaches_the_exact_answer_in_the_mean(name: str, batch: int):
    problem = BY_NAME[name].problem
    curvature, rows = Hessian(problem, 0.1), draw(2, problem.p)
    wanted = Exact().prepare(curvature)(rows).value
    runs = [
        LiSSA(depth=400, repeats=25, batch=batch, seed=s).prepare(curvature)(rows).value for s in range(4)
    ]
    mean = torch.stack(runs).mean(0)
    assert_close_per_row(mean, wanted, 0.12)
    assert not torch.equal(runs[0], runs[1])
    single = (torch.stack(runs) - wanted).norm(dim=2).mean(0)
    assert bool(((mean - wanted).norm(dim=1) < single).all())


def test_lissa_rows_do_not_depend_on_their_companions_and_seeds_repeat():
    problem = BY_NAME["softmax"].problem
    inverse = LiSSA(depth=200, repeats=3).prepare(Hessian(problem, 0.1))
    rows = draw(4, problem.p) * torch.tensor([[1.0], [1e-6], [1e6], [1.0]]).double()
    together = inverse(rows).value
    alone = torch.cat([inverse(row[None]).value for row in rows])
    assert_close_per_row(together, alone, 1e-5)
    assert torch.equal(inverse(rows).value, together)


@pytest.mark.parametrize("size", [1e-30, 1e-18, 1e30])
def test_the_size_of_a_right_hand_side_does_not_matter_to_lissa(size: float):
    inverse = LiSSA(depth=150, repeats=2).prepare(Hessian(identical(), 0.1))
    rows = draw(2, 3)
    assert_close_per_row(inverse(size * rows).value / size, inverse(rows).value, 1e-4)


def test_lissa_of_a_zero_row_is_zero():
    problem = BY_NAME["softmax"].problem
    rows = torch.stack([torch.zeros(problem.p).double(), draw(problem.p)])
    solution = LiSSA(depth=200, repeats=2).prepare(Hessian(problem, 0.1))(rows)
    assert float(solution.value[0].abs().max()) == 0
    assert set(solution.status) == {Status.ESTIMATED}


@pytest.mark.parametrize("depth", [5, 12, 50, 150, 2000])
def test_lissa_that_diverges_is_no_answer(depth: int):
    problem = BY_NAME["squared"].problem
    inverse = LiSSA(depth=depth, repeats=2, scale=0.05).prepare(Hessian(problem))
    with pytest.raises(NotConvergedError, match="diverged"):
        inverse(draw(1, problem.p))
    solution = inverse(draw(1, problem.p), throw=False)
    assert solution.status == (Status.DIVERGED,)
    assert bool(solution.value.isnan().all()), "a number that nobody should use"


def test_lissa_needs_a_mean_over_examples():
    with pytest.raises(TypeError, match="mean over training examples"):
        LiSSA().prepare(Dense(torch.eye(2)))
    assert LiSSA(depth=10).prepare(GaussNewton(identical()))(draw(1, 3)).ok

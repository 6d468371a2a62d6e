"""Curvatures against explicit matrices: each `operator` is its matrix, damping is added once and to nothing else."""

import pytest
import torch

from tests.support.cases import BY_NAME, CASES, Case, case_id, draw, plain_losses
from tests.support.compare import assert_close_per_row
from upweight import (
    EKFAC,
    ConjugateGradient,
    Dense,
    Exact,
    GaussNewton,
    Hessian,
    IndefiniteError,
    LinearProblem,
    Softmax,
)

every_case = pytest.mark.parametrize("case", CASES, ids=case_id)


@every_case
@pytest.mark.parametrize("kind", [Hessian, GaussNewton])
def test_operator_matrix_factor_and_samples_carry_the_damping(case: Case, kind):
    problem, eye = case.elsewhere, torch.eye(case.p, dtype=torch.float64)
    H = case.hessian(problem.theta)
    for damping in (0.0, 1e-4, 0.5):
        curvature = kind(problem, damping)
        A = H + damping * eye
        assert_close_per_row(curvature.operator()(eye), A, 1e-10)
        assert_close_per_row(curvature.matrix(), A, 1e-10)
        rows = draw(3, case.p)
        assert_close_per_row(curvature.factor().solve(rows), torch.linalg.solve(A, rows.T).T, 1e-8)
        wanted = (rows * torch.linalg.solve(A, rows.T).T).sum(1)
        assert_close_per_row(curvature.factor().quadratic(rows), wanted, 1e-8)
        index = torch.zeros(3, 2, dtype=torch.long)
        extra = curvature.minibatch_product(rows, index) - kind(problem).minibatch_product(rows, index)
        assert_close_per_row(extra, damping * rows, 1e-6)


@every_case
def test_samples_are_unbiased(case: Case):
    problem, row = case.elsewhere, draw(1, case.p)
    singles = problem.hessian.minibatch_product(row.repeat(case.n, 1), torch.arange(case.n)[:, None])
    assert_close_per_row(singles.mean(0), (row @ case.hessian(problem.theta))[0], 1e-10)


@every_case
def test_single_precision_is_only_less_precise(case: Case):
    rows = draw(2, case.p)
    fast = Hessian(case.elsewhere, 0.1).operator(torch.float32)(rows.float())
    assert fast.dtype == torch.float32
    assert_close_per_row(fast, Hessian(case.elsewhere, 0.1).operator()(rows), 1e-5)


@every_case
def test_spectrum_of_a_problem(case: Case):
    values = torch.linalg.eigvalsh(case.hessian(case.elsewhere.theta))
    lowest, highest = Hessian(case.elsewhere, 0.1).spectrum()
    assert highest == pytest.approx(float(values[-1]) + 0.1, rel=2e-2)
    assert lowest == pytest.approx(float(values[0]) + 0.1, abs=2e-2 * float(values[-1]))


def test_spectrum_by_lanczos():
    Q = torch.linalg.qr(draw(90, 90)).Q
    values = torch.linspace(-2, 5, 90).double()
    A = Q @ torch.diag(values) @ Q.T
    lowest, highest = Dense((A + A.T) / 2, damping=0.5).spectrum()
    assert lowest == pytest.approx(-1.5, abs=0.1)
    assert highest == pytest.approx(5.5, abs=0.1)


@pytest.mark.parametrize("lowest", [-0.05, 0.001])
def test_the_ends_of_a_clustered_spectrum_take_a_hundred_products_at_most(lowest: float, monkeypatch):
    Q = torch.linalg.qr(draw(400, 400)).Q
    values = torch.cat([torch.tensor([lowest]), torch.logspace(-3, 1, 399)]).double()
    curvature = Dense((Q * values) @ Q.T)
    count, operator = [0], Dense.operator

    def counted(self, dtype=None):
        product = operator(self, dtype)

        def one(rows):
            count[0] += len(rows)
            return product(rows)

        return one

    monkeypatch.setattr(Dense, "operator", counted)
    found = curvature.spectrum()
    assert count[0] <= 100
    assert found[0] == pytest.approx(lowest, abs=1e-3)
    assert found[1] == pytest.approx(10, rel=1e-2)


def test_the_spectrum_of_a_problem_is_looked_at_once(monkeypatch):
    problem = BY_NAME["softmax"].elsewhere
    first = Hessian(problem, 0.1).spectrum()
    other = problem.subset(torch.arange(problem.n // 2))
    fewer = Hessian(other).spectrum()
    assert fewer[1] != pytest.approx(first[1] - 0.1, rel=1e-3)
    assert GaussNewton(problem).spectrum()[1] == pytest.approx(first[1] - 0.1, rel=2e-2)
    monkeypatch.setattr(Hessian, "operator", None)
    assert Hessian(problem, 0.3).spectrum() == pytest.approx((first[0] + 0.2, first[1] + 0.2))


def test_dense():
    A = draw(5, 5)
    A = A @ A.T
    kept = A.clone()
    curvature, rows = Dense(A, damping=0.3), draw(7, 5, seed=1)
    damped = A + 0.3 * torch.eye(5).double()
    assert_close_per_row(curvature.operator()(rows), rows @ damped, 1e-12)
    assert_close_per_row(curvature.factor().solve(rows), torch.linalg.solve(damped, rows.T).T, 1e-9)
    assert torch.equal(A, kept)


@pytest.mark.parametrize("bad", [torch.zeros(3), torch.zeros(2, 3), torch.tensor([[1.0, 2.0], [0.0, 1.0]])])
def test_dense_refuses_other_shapes_and_asymmetry(bad: torch.Tensor):
    with pytest.raises(ValueError, match="dense curvature must"):
        Dense(bad)


@pytest.mark.parametrize("damping", [-1e-3, float("nan"), float("inf")])
def test_bad_damping(damping: float):
    problem = BY_NAME["softmax"].problem
    for make in (
        lambda: Hessian(problem, damping),
        lambda: GaussNewton(problem, damping),
        lambda: Dense(torch.eye(2), damping),
        lambda: EKFAC(problem, damping),
    ):
        with pytest.raises(ValueError, match="damping must be"):
            make()


def naive_ekfac(case: Case, theta: torch.Tensor, damping: float, leading: int) -> torch.Tensor:
    """The (p, p) matrix in a basis of explicit Kronecker products; intercepts are one more input column."""
    X = torch.cat([case.dense, torch.ones(case.n, 1).double()], 1) if case.intercept else case.dense
    eta = case.outputs(theta, case.dense).detach()
    W = torch.stack(
        [
            case.w[i] * torch.autograd.functional.hessian(lambda e, i=i: _loss(case, e, i), eta[i])
            for i in range(case.n)
        ]
    )
    moment = X.T @ (case.w[:, None] * X)
    left, right = torch.linalg.eigh(W.mean(0)).eigenvectors, torch.linalg.eigh(moment).eigenvectors
    Q = torch.kron(left, right)
    H = torch.stack([torch.kron(W[i], torch.outer(X[i], X[i])) for i in range(case.n)]).mean(0)
    values = (Q.T @ H @ Q).diagonal() + case.l2 + damping
    A = Q @ torch.diag(values) @ Q.T
    first = right.flip(1)[:, :leading]
    whole = torch.kron(torch.eye(case.c).double(), first @ first.T)
    rest = torch.eye(len(A)).double() - whole
    A = rest @ A @ rest + whole @ (H + (case.l2 + damping) * torch.eye(len(A)).double()) @ whole
    if not case.intercept:
        return A
    e = X.shape[1]
    order = [k * e + j for k in range(case.c) for j in range(e - 1)] + [k * e + e - 1 for k in range(case.c)]
    return A[order][:, order]


def _loss(case: Case, eta: torch.Tensor, i: int) -> torch.Tensor:
    return plain_losses(case.loss, eta[None], case.y[i : i + 1]).sum()


@pytest.mark.parametrize("leading", [0, 2, 99])
@pytest.mark.parametrize("case", [c for c in CASES if c.dense.shape[1] + 1 < c.n], ids=case_id)
def test_ekfac_is_the_diagonal_in_the_kronecker_basis_but_for_leading_directions(case: Case, leading: int):
    theta = case.elsewhere.theta
    A = naive_ekfac(case, theta, 0.01, leading)
    curvature, rows = EKFAC(case.elsewhere, 0.01, leading=leading), draw(4, case.p)
    assert_close_per_row(curvature.operator()(rows), rows @ A, 1e-7)
    assert_close_per_row(curvature.factor().solve(rows), torch.linalg.solve(A, rows.T).T, 1e-7)
    quadratic = (rows * torch.linalg.solve(A, rows.T).T).sum(1)
    assert_close_per_row(curvature.factor().quadratic(rows), quadratic, 1e-7)


def test_ekfac_is_exact_for_one_output_of_constant_curvature():
    case = BY_NAME["squared two outputs"]
    H = case.hessian(case.problem.theta)
    assert_close_per_row(EKFAC(case.problem).operator()(torch.eye(case.p).double()), H, 1e-9)


def test_the_singular_curvature_is_refused_with_its_cure():
    with pytest.raises(IndefiniteError, match=r"singular.*damping > 0"):
        Dense(torch.diag(torch.tensor([1.0, 0.0]).double())).factor()
    with pytest.raises(
        IndefiniteError, match=r"most negative eigenvalue is -3.000e-01.*damping above 3.000e-01"
    ) as caught:
        Dense(torch.diag(torch.tensor([1.0, -0.5]).double()), damping=0.2).factor()
    assert caught.value.eigenvalue == pytest.approx(-0.3)


def test_softmax_with_unpenalised_intercepts_is_solved_although_singular() -> None:
    """The shift of all intercepts is flat, yet gradients do not see it: the answers are the pseudo-inverse's."""
    generator = torch.Generator().manual_seed(0)
    for n in (40, 4):  # the primal and the dual side
        X = torch.randn(n, 6, generator=generator, dtype=torch.float64)
        y = torch.arange(n) % 3
        theta = torch.randn(3, 6, generator=generator, dtype=torch.float64)
        problem = LinearProblem(X, y, theta, torch.zeros(3), loss=Softmax(), l2=0.1)
        rows = problem.test_gradients((X[:3], y[:3]))
        expected = rows @ torch.linalg.pinv(problem.hessian.matrix(), rtol=1e-12)
        flat = torch.cat([torch.zeros(18, dtype=torch.float64), torch.ones(3, dtype=torch.float64)]) / 3**0.5
        for solver in (Exact(), ConjugateGradient(rtol=1e-10)):
            value = solver.prepare(Hessian(problem))(rows).value
            # Rounding may move an iterative answer along the flat direction; no gradient, so no score, sees it.
            assert_close_per_row(value - (value @ flat)[:, None] * flat, expected, 1e-8)

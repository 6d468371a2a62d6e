"""Every row predicted without itself: against Newton steps written out, refits without the row, and the hat matrix."""

import pytest
import torch

from tests.support.cases import BY_NAME, CASES, Case, case_id, make, newton
from tests.support.compare import assert_close_per_row
from tests.support.networks import problem_of
from tests.support.refits import plain_step, total_objective
from upweight import EKFAC, Exact, Hessian, Influence, LinearProblem, Logistic, Softmax, Squared, SquaredHinge
from upweight.influence.leave_one_out import FLAT, all_kernels, own_kernels, row_kernels
from upweight.influence.woodbury import TotalHessian
from upweight.types import Keep

every_case = pytest.mark.parametrize("case", CASES, ids=case_id)
DUAL = [case for case in CASES if case.c == 1 and case.n < case.p]


@every_case
def test_leave_one_out_equals_single_newton_steps(case: Case) -> None:
    alone = Influence(case.problem, solver=Exact()).leave_one_out()
    expected = torch.stack(
        [case.outputs(case.problem.theta + plain_step(case, [i]), case.dense[[i]])[0] for i in range(case.n)]
    )
    assert_close_per_row(alone.outputs, expected, 1e-7)
    assert_close_per_row(alone.loss, case.losses_of(alone.outputs), 1e-9)


@pytest.mark.parametrize("case", [case for case in CASES if case.n >= 40], ids=case_id)
def test_leave_one_out_is_what_a_refit_without_the_row_says(case: Case) -> None:
    alone = Influence(case.problem).leave_one_out()
    here = case.outputs(case.problem.theta, case.dense)
    picked = list(range(0, case.n, 8))
    refits = [newton(total_objective(case, [i]), case.problem.theta, 1e-12) for i in picked]
    actual = torch.stack(
        [case.outputs(theta, case.dense[[i]])[0] for theta, i in zip(refits, picked, strict=True)]
    )
    if isinstance(case.loss, Squared):  # a quadratic is at its minimum after one step
        assert_close_per_row(alone.outputs[picked], actual, 1e-7)
    # The move of the outputs, of which one step finds the most, also where the row is an unusual one.
    moved, found = actual - here[picked], alone.outputs[picked] - here[picked]
    kinks = isinstance(case.loss, SquaredHinge)
    assert float((found - moved).norm()) < (0.3 if kinks else 0.15) * float(moved.norm())


def test_leverages_sum_to_the_effective_parameters() -> None:
    case = BY_NAME["squared"]
    alone = Influence(case.problem).leave_one_out()
    root = case.w.sqrt()[:, None] * torch.cat([case.dense, torch.ones(case.n, 1).double()], dim=1)
    hat = root @ torch.linalg.solve(root.T @ root + case.n * case.penalty.diag(), root.T)
    assert_close_per_row(alone.leverage, hat.diagonal(), 1e-9)


@every_case
def test_kernels_are_those_of_the_inverse_written_out(case: Case) -> None:
    total = TotalHessian.of(case.problem, Hessian(case.problem), 0)
    E = case.problem.output_gradients(case.problem.train_batch(torch.arange(case.n)))
    found = own_kernels(total, E)
    matrix = case.n * case.hessian(case.problem.theta)
    inverse = torch.linalg.pinv(matrix, hermitian=True, rtol=1e-9)
    wanted = E @ inverse @ E.mT
    if case.problem.gauge is None:
        assert_close_per_row(found, wanted, 1e-7)
        return
    # Along directions without curvature the inverse is arbitrary: what gradients of losses see of it is not.
    r = case.problem.derivatives().r[:, :, None]
    assert_close_per_row(r.mT @ found @ r, r.mT @ wanted @ r, 1e-7)


@pytest.mark.parametrize("keep", ["mean", "total"])
@pytest.mark.parametrize("intercept", [True, False])
def test_many_classes_are_solved_as_one_by_one(keep: Keep, intercept: bool) -> None:
    """Columns of other units, far from zero: a Newton step for each row, with the Hessian without it written out."""
    generator = torch.Generator().manual_seed(0)
    X = torch.randn(90, 4, generator=generator).double() * torch.tensor([1.0, 30.0, 0.1, 1.0]).double()
    X += torch.tensor([5.0, -40.0, 0.0, 1.0]).double() if intercept else 0.0
    y, w = torch.randint(6, (90,), generator=generator), torch.rand(90, generator=generator) + 0.5
    problem = LinearProblem.fit(
        X, y, loss=Softmax(), outputs=6, intercept=intercept, l2=0.05, weights=w, keep=keep
    )
    alone = Influence(problem).leave_one_out()
    matrix = 90 * problem.hessian.matrix()
    own_penalty = torch.diag(problem.l2) if keep == "mean" else 0.0
    for i in range(90):
        root = problem.hessian_roots(torch.tensor([i]))[0]
        gradient = problem.train_gradients(torch.tensor([i]))[0]
        step = torch.linalg.pinv(matrix - own_penalty - root.T @ root, hermitian=True, rtol=1e-11) @ gradient
        E = problem.output_gradients(problem.train_batch(torch.tensor([i])))[0]
        # A shift of all outputs alike, which softmax does not see, is left out.
        found, wanted = (z - z.mean() for z in (alone.outputs[i], problem.outputs()[i] + E @ step))
        assert_close_per_row(found[None], wanted[None], 1e-8)


@pytest.mark.parametrize("case", DUAL, ids=case_id)
def test_all_kernels_at_once_are_those_one_by_one(case: Case) -> None:
    total = TotalHessian.of(case.problem, Hessian(case.problem), 0)
    E = case.problem.output_gradients(case.problem.train_batch(torch.arange(case.n)))
    found = all_kernels(total)
    assert found is not None
    assert_close_per_row(found, own_kernels(total, E)[:, 0, 0], 1e-9)


def test_rows_without_curvature_have_their_kernels_solved_for() -> None:
    """A logistic row that is right by a margin of 40 has a curvature of 1e-17: its leverage says nothing."""
    case = make("sure", Logistic(), n=12, d=20, zero_one=False)
    X = case.dense.clone()
    X[3] = 40 * case.y[3] * case.problem.theta / case.problem.theta.square().sum()
    problem = LinearProblem(X, case.y, case.problem.theta, loss=Logistic(), l2=0.05)
    weights = problem.derivatives().a[:, 0]
    assert float(weights[3]) < FLAT * float(weights.max())
    total = TotalHessian.of(problem, Hessian(problem), 0)
    found = all_kernels(total)
    assert found is not None
    matrix = torch.einsum("n,nd,ne->de", weights, X, X) + 12 * 0.05 * torch.eye(20).double()
    assert_close_per_row(found, (X * torch.linalg.solve(matrix, X.T).T).sum(1), 1e-8)


@pytest.mark.parametrize("name", ["softmax n < p", "squared two outputs sparse n < p", "logistic"])
def test_other_factors_give_no_kernels_at_once(name: str) -> None:
    problem = BY_NAME[name].problem
    assert all_kernels(TotalHessian.of(problem, Hessian(problem), 0)) is None


@pytest.mark.parametrize("held", [0, 8])
@pytest.mark.parametrize("name", ["softmax", "logistic n < p intercept", "logistic one against the rest"])
def test_memory_does_not_matter(name: str, held: int, monkeypatch: pytest.MonkeyPatch) -> None:
    case = BY_NAME[name]
    wanted = Influence(case.problem).leave_one_out()
    seen = []

    def counted(problem, index):
        seen.append(len(index))
        return take(problem, index)

    take = LinearProblem.train_batch
    monkeypatch.setattr("upweight.influence.leave_one_out.HELD_BYTES", 8 * case.p * case.c * held)
    monkeypatch.setattr(LinearProblem, "train_batch", counted)
    monkeypatch.setattr("upweight.influence.leave_one_out.ROWS", (3, 1024))
    monkeypatch.setattr("upweight.influence.leave_one_out.NUMBERS", held * case.p)
    found = Influence(case.problem).leave_one_out()
    assert max(seen, default=0) <= max(1, held)
    blocks = [K for _, K, _ in row_kernels(TotalHessian.of(case.problem, Hessian(case.problem), 0), "")]
    assert max(map(len, blocks)) <= max(3, held) or case in DUAL
    for part in ("outputs", "loss", "leverage"):
        assert_close_per_row(getattr(found, part), getattr(wanted, part), 1e-11)


def test_what_is_not_linear_has_none() -> None:
    network, case = problem_of("mlp"), BY_NAME["softmax"]
    for influence in (
        Influence(network, curvature=EKFAC(network, 0.1)),
        Influence(case.problem, curvature=EKFAC(case.problem, 0.1)),
    ):
        with pytest.raises(TypeError, match="are for linear models with their Hessian"):
            influence.leave_one_out()

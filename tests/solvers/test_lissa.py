"""LiSSA against its series written out with explicit matrices, in expectation, and where it diverges."""

import pytest
import torch

from tests.support.cases import BY_NAME, draw
from tests.support.compare import assert_close_per_row, residual_in_units
from upweight import Dense, Exact, GaussNewton, Hessian, LinearProblem, LiSSA, NotConvergedError, Squared
from upweight.linear.second_derivative import LinearHessian
from upweight.solvers import Status, lissa


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
    solution = LiSSA(**{"depth": 900, "repeats": 2, **settings_}).prepare(curvature)(rows)
    A = identical().hessian.matrix() + damping * torch.eye(3).double()
    assert_close_per_row(solution.value, torch.linalg.solve(A, rows.T).T, 1e-4)
    assert_close_per_row(solution.residual, residual_in_units(curvature, A, solution.value, rows), 1e-6)
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


def test_lissa_needs_a_mean_over_examples():
    with pytest.raises(TypeError, match="mean over training examples"):
        LiSSA().prepare(Dense(torch.eye(2)))
    assert LiSSA(depth=10).prepare(GaussNewton(identical()))(draw(1, 3)).ok


@pytest.mark.parametrize(
    "bad", [{"depth": 0}, {"repeats": 0}, {"batch": 0}, {"scale": 0.0}, {"scale": float("inf")}]
)
def test_bad_settings_of_lissa(bad):
    with pytest.raises(ValueError, match="must"):
        LiSSA(**bad)


def plain_series(curvature: Hessian, solver: LiSSA, row: torch.Tensor) -> torch.Tensor:
    """The series for one row with the explicit curvature of each step's examples, run after run."""
    problem, generator = curvature.problem, torch.Generator().manual_seed(solver.seed)
    assert solver.scale is not None
    eye = torch.eye(problem.p).double()
    h = [row.clone() for _ in range(solver.repeats)]
    for _ in range(solver.depth):
        index = torch.randint(problem.n, (solver.repeats, solver.batch), generator=generator)
        for j, own in enumerate(index):
            A = problem.subset(own).hessian.matrix() + curvature.damping * eye
            h[j] = row + h[j] - A @ h[j] / solver.scale
    return torch.stack(h).mean(0) / solver.scale


@pytest.mark.parametrize(("batch", "repeats", "seed"), [(1, 1, 0), (3, 2, 1), (2, 4, 2)])
@pytest.mark.parametrize("name", ["softmax", "logistic sparse intercept weights"])
def test_the_series_is_the_one_of_the_paper(name: str, batch: int, repeats: int, seed: int):
    curvature = Hessian(BY_NAME[name].problem, 0.05)
    solver = LiSSA(depth=12, batch=batch, repeats=repeats, seed=seed, scale=4.0)
    rows = draw(2, curvature.p)
    solution = solver.prepare(curvature)(rows)
    wanted = torch.stack([plain_series(curvature, solver, row) for row in rows])
    assert_close_per_row(solution.value, wanted, 1e-5)  # the series itself runs in float32
    assert solution.steps.tolist() == [12 * repeats] * 2


@pytest.mark.parametrize("batch", [1, 5])
@pytest.mark.parametrize("name", ["softmax", "squared"])
def test_the_scale_is_that_of_the_top_eigenvalues_of_samples(name: str, batch: int):
    curvature = Hessian(BY_NAME[name].problem, 0.1)
    found = lissa.find_scale(curvature, curvature, batch, seed=3, samples=20, steps=300)
    index = torch.randint(curvature.problem.n, (20, batch), generator=torch.Generator().manual_seed(3))
    top = [torch.linalg.eigvalsh(curvature.problem.subset(own).hessian.matrix())[-1] + 0.1 for own in index]
    wanted = sum(float(value) ** 2 for value in top) / sum(map(float, top))
    assert found == pytest.approx(wanted, rel=1e-3)


def test_a_scale_that_was_found_too_small_is_doubled_until_the_series_stays_bounded(monkeypatch):
    monkeypatch.setattr(lissa, "find_scale", lambda *settings: 0.3)
    curvature, rows = Hessian(identical(), 0.1), draw(1, 3)  # its largest eigenvalue is 6.5
    solution = LiSSA(depth=800, repeats=2).prepare(curvature)(rows)
    assert solution.status == (Status.ESTIMATED,)
    assert_close_per_row(solution.value, Exact().prepare(curvature)(rows).value, 1e-4)
    monkeypatch.setattr(lissa, "find_scale", lambda *settings: 0.01)  # 64 times that is still too small
    assert LiSSA(depth=200).prepare(curvature)(rows, throw=False).status == (Status.DIVERGED,)

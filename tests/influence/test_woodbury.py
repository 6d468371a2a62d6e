"""Inverses without some examples, from the factor of all: against the reduced Hessian written out and inverted."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd.functional import hessian

from tests.support.cases import BY_NAME, CASES, Case, case_id, draw
from tests.support.compare import assert_close_per_row
from tests.support.refits import plain_step, total_objective
from upweight import Hessian, LinearProblem, Squared
from upweight.influence.woodbury import Downdated, TotalHessian, newton_steps

every_case = pytest.mark.parametrize("case", CASES, ids=case_id)


def share_left(case: Case, size: int) -> float:
    """What of the total penalty stays when so many examples take their share along."""
    return (case.n - size) / case.n if case.keep == "mean" else 1.0


def total_matrix(case: Case, size: int) -> torch.Tensor:
    """n A, the penalty's share of `size` examples gone."""
    lost = (1 - share_left(case, size)) * case.n * case.penalty
    return case.n * case.hessian(case.problem.theta) - lost.diag()


def gradients(case: Case, k: int) -> torch.Tensor:
    """Rows that are no gauge directions: gradients of losses at other parameters."""
    return case.problem.at(draw(case.p, seed=6)).test_gradients(case.test)[:k]


@every_case
@pytest.mark.parametrize("size", [0, 1, 3])
def test_the_factor_of_the_total_is_that_of_the_matrix_written_out(case: Case, size: int):
    total = TotalHessian.of(case.problem, Hessian(case.problem), size)
    rows = gradients(case, 4)
    wanted = torch.linalg.lstsq(total_matrix(case, size), rows.T, driver="gelsd").solution.T
    assert_close_per_row(total.solve(rows), wanted, 1e-7)
    # Leading dimensions are the caller's.
    assert_close_per_row(total.solve(rows.view(2, 2, -1)).flatten(0, 1), wanted, 1e-7)
    assert torch.equal(total.solve(rows[0]), total.solve(rows[:1])[0])


@pytest.mark.parametrize("sets", [[[3], [0]], [[1, 2], [5, 4]], [[0, 2, 3, 4]]], ids=len)
@every_case
def test_a_downdated_inverse_is_that_of_the_reduced_hessian(case: Case, sets: list[list[int]]):
    size = len(sets[0])
    total = TotalHessian.of(case.problem, Hessian(case.problem), size)
    index = torch.tensor(sets)
    C = case.problem.hessian_roots(index.flatten()).view(len(sets), size * case.c, -1)
    C = C if C.shape[1] <= C.shape[2] else torch.linalg.qr(C, mode="r").R
    inverse = Downdated(total, C)
    rows = gradients(case, 3).expand(len(sets), -1, -1)
    found = inverse.solve(rows)
    for one, removed, leverage in zip(found, sets, inverse.leverage, strict=True):
        reduced = hessian(total_objective(case, removed), case.problem.theta)
        wanted = torch.linalg.lstsq(reduced, rows[0].T, driver="gelsd").solution.T
        assert_close_per_row(one, wanted, 1e-6)
        # The share of the set in the curvature: the largest eigenvalue of the pencil (total - reduced, total).
        full = total_matrix(case, size)
        values, vectors = torch.linalg.eigh(full)
        curved = values > 1e-9 * values[-1]  # flat directions carry nothing
        root = vectors[:, curved] * values[curved].rsqrt()
        share = float(torch.linalg.eigvalsh(root.T @ (full - reduced) @ root)[-1])
        assert float(leverage) == pytest.approx(share, rel=1e-7, abs=1e-12)
        assert 0 <= share < 1


@every_case
def test_steps_are_those_of_the_reduced_objective(case: Case):
    sets = [[3], [0, 1], [5], [2, 4, 0], [1, 3]]
    found: dict[int, torch.Tensor] = {}
    for places, inverse, steps in newton_steps(
        case.problem, Hessian(case.problem), list(map(torch.tensor, sets))
    ):
        assert len(places) == len(inverse.C) == len(steps)
        found |= dict(zip(places, steps, strict=True))
    assert sorted(found) == list(range(len(sets)))
    rows = gradients(case, 5)  # softmax without penalty on an intercept: steps are told apart by what they do
    wanted = torch.stack([plain_step(case, removed) for removed in sets])
    assert_close_per_row(torch.stack([found[j] for j in range(len(sets))]) @ rows.T, wanted @ rows.T, 1e-6)


@settings(max_examples=25)
@given(
    sizes=st.lists(st.integers(1, 7), min_size=1, max_size=6),
    held=st.integers(1, 6),
    name=st.sampled_from(["logistic", "softmax"]),
)
def test_neither_batches_nor_memory_matter(sizes: list[int], held: int, name: str):
    case = BY_NAME[name]
    generator = torch.Generator().manual_seed(sum(sizes) + held)
    sets = [torch.randperm(case.n, generator=generator)[:size] for size in sizes]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("upweight.influence.woodbury.HELD_BYTES", 8 * case.p * case.c * held)
        steps = torch.empty(len(sets), case.p, dtype=torch.float64)
        seen: list[int] = []
        for places, inverse, found in newton_steps(case.problem, Hessian(case.problem), sets):
            steps[places] = found
            seen += places
            assert len({len(sets[j]) for j in places}) == 1
            assert inverse.C.shape[1] <= case.p
    assert sorted(seen) == list(range(len(sets)))
    wanted = torch.stack([plain_step(case, rows.tolist()) for rows in sets])
    rows = gradients(case, 5)
    assert_close_per_row(steps @ rows.T, wanted @ rows.T, 1e-6)


@pytest.mark.parametrize(("keep", "factors"), [("mean", 3), ("total", 1)])
def test_one_factor_serves_all_sets_whose_penalty_stays(
    keep: str, factors: int, monkeypatch: pytest.MonkeyPatch
):
    case = BY_NAME["softmax"]
    problem = case.problem.changed(keep=keep)
    made, of = [], TotalHessian.of.__func__  # type: ignore[attr-defined]

    def counted(cls, problem, curvature, size):
        made.append(size)
        return of(cls, problem, curvature, size)

    monkeypatch.setattr(TotalHessian, "of", classmethod(counted))
    sets = [torch.tensor(rows) for rows in ([0], [1, 2], [3], [4, 5, 6], [7, 8])]
    list(newton_steps(problem, Hessian(problem), sets))
    assert len(made) == factors
    assert set(made) == ({1, 2, 3} if keep == "mean" else {0})


def test_a_direction_that_the_set_alone_fits_has_no_inverse_without_it():
    X = torch.eye(3, dtype=torch.float64)[[0, 0, 1, 1, 2]]
    problem = LinearProblem.fit(X, torch.tensor([1.0, 2.0, 1.0, 0.0, 3.0]), loss=Squared())
    total = TotalHessian.of(problem, Hessian(problem), 1)
    assert float(Downdated(total, problem.hessian_roots(torch.tensor([0]))).leverage) == pytest.approx(0.5)
    alone = Downdated(total, problem.hessian_roots(torch.tensor([0, 4])))
    assert alone.determined.tolist() == [True, False]
    found = alone.solve(draw(2, 3)[:, None])
    assert bool(found[0].isfinite().all() & found[1].isnan().all())
    # With a penalty the direction is held by something else.
    held = problem.changed(l2=0.1, keep="total")
    assert (
        float(
            Downdated(TotalHessian.of(held, Hessian(held), 1), held.hessian_roots(torch.tensor([4]))).leverage
        )
        < 1
    )

"""The dual side: leverages against their definition, and what cannot be inverted."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.cases import draw
from tests.support.compare import assert_close_per_row
from tests.support.matrices import dual, exact_inverse
from upweight.errors import IndefiniteError
from upweight.linalg.dual_factor import DualFactor


@settings(max_examples=40)
@given(st.integers(1, 6), st.integers(0, 4), st.integers(0, 3), st.integers(0, 1000))
def test_every_shape_equals_the_explicit_inverse(r: int, wider: int, unpenalised: int, seed: int):
    """r rows in r + wider columns; no more of them unpenalised than the rows determine."""
    p, q = r + wider, min(unpenalised, r, r + wider)
    factor, A = dual(r, p, q, seed)
    rows = draw(3, p, seed=seed + 1)
    # Solved in double precision at a condition of 1e5 times that of the unpenalised block.
    worst = 1e-15 * float(torch.linalg.cond(A)) * 100
    assert_close_per_row(factor.solve(rows), torch.linalg.solve(A, rows.T).T, max(1e-9, worst))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("unpenalised", [0, 1, 3])
def test_leverages_are_what_they_are_called(unpenalised: int, seed: int):
    factor, A = dual(5, 12, unpenalised, seed)
    U = torch.empty(5, 12, dtype=torch.float64)
    U[:, factor.penalised], U[:, factor.unpenalised] = factor.U, factor.free
    hat = U @ torch.linalg.solve(A, U.T)
    found = factor.leverages
    assert_close_per_row((1 - found)[:, None], (1 - hat.diagonal())[:, None], 1e-6)
    assert_close_per_row(found[:, None], hat.diagonal()[:, None], 1e-9)
    assert bool(((found > 0) & (found < 1)).all())
    assert float(found.sum()) == pytest.approx(float(torch.linalg.solve(A, U.T @ U).trace()), rel=1e-9)


def test_leverages_in_single_precision():
    exact, _ = dual(5, 12, 1)
    U, D = torch.empty(5, 12), torch.zeros(12)
    U[:, exact.penalised], U[:, exact.unpenalised] = exact.U.float(), exact.free.float()
    D[exact.penalised] = (exact.D + 0.1).float()
    found = DualFactor(U, D).leverages
    assert found.dtype == torch.float32
    assert_close_per_row(found[:, None], DualFactor(U.double(), D.double()).leverages[:, None], 1e-4)


def test_the_entries_are_told_apart_by_their_penalty():
    factor = DualFactor(draw(3, 5), torch.tensor([0.1, 0.0, 1.0, 0.0, 2.0]).double())
    assert factor.unpenalised.tolist() == [1, 3]
    assert factor.penalised.tolist() == [0, 2, 4]


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ([[0.0, 0.0]], "singular"),  # no row has anything in the unpenalised column
        ([[1.0, 1.0], [1.0, 1.0]], "singular"),  # two equal ones
    ],
)
def test_unpenalised_entries_that_the_rows_do_not_determine(columns: list[list[float]], said: str):
    free = torch.tensor(columns).T.double()
    U = torch.cat([draw(2, 3), free], dim=1)
    D = torch.cat([torch.ones(3), torch.zeros(free.shape[1])]).double()
    with pytest.raises(IndefiniteError, match=said):
        DualFactor(U, D)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("seed", range(10))
def test_more_unpenalised_entries_than_rows(seed: int, dtype: torch.dtype):
    """By rounding alone the Schur complement may have a Cholesky factor."""
    D = torch.tensor([1e-3, 0.0, 0.0, 0.0, 1.0]).to(dtype)
    with pytest.raises(IndefiniteError, match="singular"):
        DualFactor(draw(2, 5, seed=seed).to(dtype), D)


@pytest.mark.parametrize("small", [1e-4, 1e-8])
@pytest.mark.parametrize("unpenalised", [1, 2, 3])
def test_small_penalties_cost_no_digits_of_unpenalised_entries(unpenalised: int, small: float):
    """Against exact fractions: rows that the data determine are answered as if there were no penalty."""
    U, D = draw(4, 7, seed=3), torch.full((7,), small).double()
    D[:unpenalised] = 0
    rows = draw(2, 4, seed=4) @ U
    wanted = rows @ exact_inverse(U, D)
    assert_close_per_row(
        DualFactor(U, D).solve(rows)[:, :unpenalised], wanted[:, :unpenalised], 1e-6 * 1e-8 / small
    )

"""Matrices of a few directions: what is beside them, other precisions, and updates of a factor by a few rows."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.cases import draw
from tests.support.compare import assert_close_per_row
from tests.support.matrices import cholesky, low_rank, orthonormal, positive_definite
from upweight.errors import IndefiniteError
from upweight.linalg.factorizations import CholeskyFactor
from upweight.linalg.low_rank import LowRankFactor, UpdatedFactor


def test_directions_without_a_vector_have_the_smallest_curvature():
    V = orthonormal(2, 5)
    factor = LowRankFactor(V, torch.tensor([3.0, 0.5]).double())
    beside = draw(2, 5, seed=1)
    beside -= beside @ V.T @ V
    assert_close_per_row(factor.multiply(beside), 0.5 * beside, 1e-12)
    assert_close_per_row(factor.solve(beside), 2 * beside, 1e-12)
    assert_close_per_row(factor.solve(V), V / torch.tensor([[3.0], [0.5]]), 1e-12)


def test_another_precision_is_the_matrix_rounded():
    factor, A = low_rank(3, 9)
    half = factor.to(torch.float32)
    assert half.dtype == half.vectors.dtype == torch.float32
    assert factor.dtype == torch.float64
    rows = draw(2, 9, seed=1)
    assert_close_per_row(half.multiply(rows.float()), rows @ A, 1e-6)
    assert half.product is not None
    assert torch.equal(half.product(rows.float()), half.multiply(rows.float()))


@pytest.mark.parametrize(("values", "said"), [([1.0, 0.0], "singular"), ([1.0, -0.5], "indefinite")])
def test_a_value_that_is_not_positive_is_refused(values: list[float], said: str):
    with pytest.raises(IndefiniteError, match=said) as raised:
        LowRankFactor(orthonormal(2, 4), torch.tensor(values).double())
    assert raised.value.eigenvalue == values[1]


@settings(max_examples=30)
@given(st.integers(1, 4), st.integers(0, 1000))
def test_an_update_equals_a_factorisation_made_anew(q: int, seed: int):
    A, C, rows = positive_definite(6, seed), draw(q, 6, seed=seed + 1), draw(3, 6, seed=seed + 2)
    anew, fast = CholeskyFactor(A + C.T @ C), UpdatedFactor(CholeskyFactor(A), C)
    assert_close_per_row(fast.solve(rows), anew.solve(rows), 1e-8)
    assert_close_per_row(fast.quadratic(rows)[:, None], anew.quadratic(rows)[:, None], 1e-8)


def test_updates_can_be_made_of_updates():
    base, A = cholesky()
    C, rows = draw(3, 9, seed=2), draw(2, 9, seed=3)
    step_by_step = UpdatedFactor(UpdatedFactor(base, C[:1]), C[1:])
    assert_close_per_row(step_by_step.solve(rows), torch.linalg.solve(A + C.T @ C, rows.T).T, 1e-9)


def test_an_update_makes_the_inverse_smaller_and_leaves_what_is_orthogonal():
    base = CholeskyFactor(torch.eye(3).double())
    more = UpdatedFactor(base, torch.tensor([[2.0, 0.0, 0.0]]).double())
    assert more.solve(torch.eye(3).double()).tolist() == [[pytest.approx(0.2), 0, 0], [0, 1, 0], [0, 0, 1]]

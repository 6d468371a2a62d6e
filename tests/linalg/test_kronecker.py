"""Kronecker factors on gradients in small factors, and blocks scattered over flat vectors."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.cases import draw
from tests.support.compare import assert_close_per_row
from tests.support.matrices import blocks, kronecker, orthonormal
from upweight.errors import IndefiniteError
from upweight.linalg.kronecker import BlocksFactor, KroneckerFactor
from upweight.linalg.outer_products import Pairs, WeightMatrix


def written_out(left: torch.Tensor, right: torch.Tensor, *, intercept: bool) -> torch.Tensor:
    """sum_t left_t right_t^T as flat vectors, the last column after the weights where it is the intercept's."""
    G = torch.stack(
        [
            torch.stack([torch.outer(x, y) for x, y in zip(*pair, strict=True)]).sum(0)
            for pair in zip(left, right, strict=True)
        ]
    )
    return torch.cat([G[:, :, :-1].flatten(1), G[:, :, -1]], 1) if intercept else G.flatten(1)


@settings(max_examples=40)
@given(
    st.integers(1, 3),
    st.integers(1, 4),
    st.integers(0, 4),
    st.integers(1, 3),
    st.booleans(),
    st.integers(0, 99),
)
def test_squares_of_small_factors_are_those_of_the_gradients(c, e, leading, t, intercept, seed):
    leading = min(leading, e)
    factor, A = kronecker(c, e, leading, intercept=intercept, seed=seed)
    left, right = draw(4, t, c, seed=seed), draw(4, t, e, seed=seed + 1)
    rows = written_out(left, right, intercept=intercept)
    found = factor.quadratic_outer(left, right)
    assert_close_per_row(found[:, None], factor.quadratic(rows)[:, None], 1e-9)
    wanted = (rows * torch.linalg.solve(A, rows.T).T).sum(1)
    assert_close_per_row(found[:, None], wanted[:, None], 1e-7)


def test_small_factors_of_another_precision_are_taken_in_that_of_the_factor():
    factor, _ = kronecker(2, 3, 1, intercept=False)
    left, right = draw(4, 1, 2).float(), draw(4, 1, 3, seed=1).float()
    found = factor.quadratic_outer(left, right)
    assert found.dtype == torch.float64
    assert torch.equal(found, factor.quadratic_outer(left.double(), right.double()))


@pytest.mark.parametrize("leading", [0, 1])
def test_values_that_are_not_positive_are_refused(leading: int):
    values = torch.ones(2, 3).double()
    values[1, 2] = -0.25
    with pytest.raises(IndefiniteError) as raised:
        KroneckerFactor(
            orthonormal(2, 2), orthonormal(3, 3), values, torch.eye(2 * leading).double(), intercept=False
        )
    assert raised.value.eigenvalue == -0.25


def test_a_block_that_is_not_positive_definite_is_refused():
    values, block = torch.ones(2, 3).double(), torch.diag(torch.tensor([1.0, -1.0])).double()
    with pytest.raises(IndefiniteError, match="-1"):
        KroneckerFactor(orthonormal(2, 2), orthonormal(3, 3), values, block, intercept=False)


def pairs_of(factor: BlocksFactor, p: int, positions: int) -> tuple[Pairs, torch.Tensor]:
    """Gradients of 4 examples in small factors, and written out."""
    layers, flat = [], torch.zeros(4, p, dtype=torch.float64)
    for i, (index, part) in enumerate(factor.layers):
        c, e = len(part.left), len(part.right)
        left, right = draw(4, positions, c, seed=i), draw(4, positions, e, seed=i + 10)
        matrix = WeightMatrix(index, c, e - part.intercept)
        flat[:, index] = matrix.flat(torch.einsum("btr,bts->brs", left, right))
        layers.append((left, right))
    rest = torch.zeros(4, 0, dtype=torch.float64)
    if factor.rest is not None:
        rest = draw(4, len(factor.rest[0]), seed=20)
        flat[:, factor.rest[0]] = rest
    return Pairs(layers, rest), flat


@pytest.mark.parametrize("positions", [1, 3])
def test_blocks_of_gradients_in_small_factors(positions: int):
    factor, A = blocks()
    pairs, flat = pairs_of(factor, len(A), positions)
    assert_close_per_row(factor.quadratic_outer(pairs)[:, None], factor.quadratic(flat)[:, None], 1e-12)
    wanted = (flat * torch.linalg.solve(A, flat.T).T).sum(1)
    assert_close_per_row(factor.quadratic_outer(pairs)[:, None], wanted[:, None], 1e-9)


def test_without_entries_outside_weight_matrices():
    factor, A = kronecker(2, 3, 1, intercept=True)
    order = torch.randperm(6, generator=torch.Generator().manual_seed(1))
    alone = BlocksFactor([(order, factor)], None, 6, torch.float64)
    whole = torch.zeros(6, 6, dtype=torch.float64)
    whole[order[:, None], order] = A
    rows = draw(3, 6, seed=2)
    assert_close_per_row(alone.solve(rows), torch.linalg.solve(whole, rows.T).T, 1e-9)
    assert alone.product is not None
    assert_close_per_row(alone.product(rows), rows @ whole, 1e-12)
    pairs, flat = pairs_of(alone, 6, 1)
    assert_close_per_row(alone.quadratic_outer(pairs)[:, None], alone.quadratic(flat)[:, None], 1e-12)


def test_every_entry_is_in_one_block():
    factor, _ = kronecker(2, 3, 0, intercept=False)
    with pytest.raises(AssertionError):
        BlocksFactor([(torch.arange(6), factor)], None, 7, torch.float64)

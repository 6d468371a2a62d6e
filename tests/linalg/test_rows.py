"""Roots of matrices: what a sparse one answers is what the same numbers written out answer."""

import pytest
import torch
from scipy import sparse

from tests.support.cases import draw
from tests.support.compare import assert_close_per_row
from upweight.linalg import rows
from upweight.linalg.dual_factor import DualFactor
from upweight.linalg.rows import DenseRows, SparseRows


@pytest.fixture(params=[2, 512])
def both(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> tuple[DenseRows, SparseRows]:
    """5 rows of 9 columns, most of them zero, one column empty; the sparse one is written out some rows at a time."""
    monkeypatch.setattr(rows, "BLOCK", request.param)
    U = draw(5, 9) * (draw(5, 9, seed=1).abs() > 0.8)
    U[:, 4] = 0
    return DenseRows(U), SparseRows(sparse.csr_array(U.numpy()))


def test_a_sparse_root_answers_as_a_dense_one(both):
    dense, thin = both
    scale, index = torch.linspace(0.1, 2, 9).double(), torch.tensor([7, 0, 4])
    assert torch.equal(thin.dense(), dense.dense())
    assert torch.equal(thin.columns(index).dense(), dense.columns(index).dense())
    assert_close_per_row(thin.squares()[None], dense.squares()[None], 1e-14)
    assert_close_per_row(thin.forward(draw(3, 9)), dense.forward(draw(3, 9)), 1e-14)
    assert_close_per_row(thin.backward(draw(3, 5)), dense.backward(draw(3, 5)), 1e-14)
    S = dense.dense() / scale
    for rooted in both:
        assert_close_per_row(rooted.gram(scale).tril(), (S @ S.T).tril(), 1e-13)


@pytest.mark.parametrize("unpenalised", [[], [2]])
def test_a_factor_of_a_sparse_root_is_that_of_a_dense_one(both, unpenalised: list[int]):
    dense, thin = both
    D = torch.linspace(0.1, 2, 9).double()
    D[unpenalised] = 0
    A = dense.dense().T @ dense.dense() + D.diag()
    factor = DualFactor(thin, D)
    assert_close_per_row(factor.solve(draw(3, 9)), torch.linalg.solve(A, draw(3, 9).T).T, 1e-11)
    assert factor.product is not None
    assert factor.diagonal is not None
    assert_close_per_row(factor.product(draw(3, 9)), draw(3, 9) @ A, 1e-13)
    assert_close_per_row(factor.diagonal[None], A.diagonal()[None], 1e-13)
    assert_close_per_row(factor.leverages[None], DualFactor(dense.dense(), D).leverages[None], 1e-11)


def test_precisions(both):
    for rooted in both:
        assert rooted.to(torch.float32).forward(draw(3, 9).float()).dtype == torch.float32
        assert rooted.to(torch.float64).dense().dtype == torch.float64

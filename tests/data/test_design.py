"""The three products that a linear problem is made of, for every way of storing X."""

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import sparse

from tests.support.cases import draw
from tests.support.compare import assert_close_per_row
from upweight.data.design import DenseDesign, SparseDesign, as_design

KINDS = ["float64", "float32", "integer", "numpy", "frame", "strided", "csr", "coo float32", "csr integer"]


def given(kind: str, d: int):
    """X of a kind, and its numbers in float64."""
    X = (draw(13, d) * 2).round() + (0 if "integer" in kind else 0.25)
    X[2] = X[:, 0] = 0
    forms = {
        "float64": X,
        "float32": X.float(),
        "integer": X.long(),
        "numpy": X.numpy(),
        "frame": pd.DataFrame(X.numpy()),
        "strided": X.T.contiguous().T,
        "csr": sparse.csr_matrix(X.numpy()),
        "coo float32": sparse.coo_array(X.float().numpy()),
        "csr integer": sparse.csr_array(X.long().numpy()),
    }
    return forms[kind], X


@pytest.mark.parametrize("d", [1, 3, 9])
@pytest.mark.parametrize("kind", KINDS)
def test_products_of_every_kind(kind: str, d: int):
    form, X = given(kind, d)
    design = as_design(form)
    assert design.shape == (13, d)
    V, Z, w = draw(2, d, seed=1), draw(13, 2, seed=2), draw(13, seed=3)
    for dtype, rtol in ((torch.float64, 1e-13), (torch.float32, 1e-5)):
        forward, backward = torch.zeros(13, 2, dtype=dtype), torch.zeros(2, d, dtype=dtype)
        gram = torch.zeros(d, d, dtype=dtype)
        for rows, block in design.blocks(5, dtype):
            forward[rows] = block.forward(V.to(dtype))
            backward += block.backward(Z[rows].to(dtype))
            block.gram(w[rows].to(dtype), gram)
            assert block.dense().dtype == dtype
            assert_close_per_row(block.dense(), X[rows], rtol)
        assert_close_per_row(forward, X @ V.T, rtol)
        assert_close_per_row(backward, Z.T @ X, rtol)
        assert_close_per_row(gram.triu(), (X.T @ torch.diag(w) @ X).triu(), rtol)
    index = torch.tensor([12, 0, 0, 5])
    assert_close_per_row(design.take(index).block(slice(None), torch.float64).dense(), X[index], 1e-13)


def test_the_users_data_are_never_written():
    X = draw(6, 3)
    S = sparse.csr_array(X.numpy().copy())
    kept, data = X.clone(), S.data.copy()
    for design in (as_design(X), as_design(S)):
        block = design.block(slice(None), torch.float64)
        block.gram(torch.ones(6).double(), torch.zeros(3, 3).double())
        block.backward(block.forward(draw(2, 3)))
    assert torch.equal(X, kept)
    assert np.array_equal(S.data, data)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_not_finite_names_the_first_example(bad: float):
    X = draw(6, 3)
    X[4, 1] = X[5, 0] = bad
    for form in (X, X.float(), X.numpy(), sparse.csr_array(X.numpy()), pd.DataFrame(X.numpy())):
        with pytest.raises(ValueError, match="NaN or infinity, first in example 4"):
            as_design(form)


@pytest.mark.parametrize("form", [torch.zeros(3), torch.zeros(2, 2, 2), np.zeros(()), torch.zeros(1, 2, 2)])
def test_wrong_number_of_dimensions(form):
    with pytest.raises(ValueError, match=r"must have shape \(n, d\), got"):
        as_design(form)


@pytest.mark.parametrize("form", [torch.zeros(0, 3), np.zeros((0, 3)), sparse.csr_array((0, 3))])
def test_empty(form):
    with pytest.raises(ValueError, match="empty"):
        as_design(form)


def test_kinds_of_design():
    assert isinstance(as_design(torch.zeros(2, 2)), DenseDesign)
    assert isinstance(as_design(sparse.csr_array((2, 2))), SparseDesign)

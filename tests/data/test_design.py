"""The three products that a linear problem is made of, for every way of storing X."""

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import sparse

from tests.support.cases import draw
from tests.support.compare import assert_close_per_row
from upweight.data import design as design_module
from upweight.data.design import DenseDesign, SparseDesign, as_design, as_inputs, check_finite
from upweight.runtime.fingerprint import content_hash

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


@pytest.mark.parametrize("d", [1, 7, 40])
def test_products_in_bfloat16_take_and_give_single_precision(d: int):
    X = draw(20, d).float()
    block = as_design(X).block(slice(3, 15), torch.bfloat16)
    V, Z = draw(2, d, seed=1).float(), draw(12, 2, seed=2).float()
    forward, backward = block.forward(V), block.backward(Z)
    assert forward.dtype == backward.dtype == torch.float32
    size = X[3:15].norm() * V.norm()
    assert float((forward - X[3:15] @ V.T).norm()) < 0.02 * float(size)
    assert float((backward - Z.T @ X[3:15]).norm()) < 0.02 * float(X[3:15].norm() * Z.norm())
    assert not torch.equal(forward, X[3:15] @ V.T)  # it is rounded


@pytest.mark.parametrize("form", ["dense", "sparse"])
@pytest.mark.parametrize("within", [None, slice(0, 0), slice(4, 9), slice(11, None), slice(-3, None)])
@pytest.mark.parametrize("size", [1, 4, 100])
def test_blocks_are_the_rows_within(form: str, within: slice | None, size: int):
    X = draw(13, 3)
    design = as_design(X if form == "dense" else sparse.csr_array(X.numpy()))
    found = list(design.blocks(size, torch.float64, within))
    start, stop, _ = (within or slice(None)).indices(13)
    assert [i for part, _ in found for i in range(13)[part]] == list(range(start, stop))
    for part, block in found:
        assert part.stop - part.start <= size
        assert torch.equal(block.dense(), X[part])


def test_the_gram_matrix_is_added_to_what_is_there():
    X, w = draw(6, 5), draw(6, seed=1)
    for form in (X, sparse.csr_array(X.numpy())):
        out = torch.ones(5, 5).double()
        as_design(form).block(slice(None), torch.float64).gram(w, out)
        assert_close_per_row((out - 1).triu(), (X.T @ torch.diag(w) @ X).triu(), 1e-13)


def test_a_smaller_copy_is_made_once_and_only_where_it_fits(monkeypatch: pytest.MonkeyPatch):
    X = draw(8, 3)
    kept = DenseDesign(X)
    blocks = [kept.block(slice(0, 4), torch.float32).dense() for _ in range(2)]
    assert blocks[0].data_ptr() == blocks[1].data_ptr()
    monkeypatch.setattr(design_module, "CACHE_BYTES", 8 * 3 * 4 - 1)
    passing = DenseDesign(X)
    again = [passing.block(slice(0, 4), torch.float32).dense() for _ in range(2)]
    assert again[0].data_ptr() != again[1].data_ptr()
    assert torch.equal(again[0], blocks[0])


def test_numbers_of_the_users_precision_are_shared():
    X = draw(8, 3).float()
    design = as_design(X)
    (buffer,) = design.buffers()
    assert buffer.data_ptr() == X.data_ptr()
    (watched,) = design.versioned
    before = watched._version
    X[7, 2] = 9
    assert watched._version > before
    assert float(design.block(slice(7, 8), torch.float32).dense()[0, 2]) == 9


@pytest.mark.parametrize("form", ["dense", "sparse"])
def test_small_data_are_looked_at_whole_and_of_large_ones_some_rows(
    form: str, monkeypatch: pytest.MonkeyPatch
):
    X = draw(300, 3)
    design = as_design(X if form == "dense" else sparse.csr_array(X.numpy()))
    whole = [len(part) for part in design.sample()]
    assert whole == [len(part) for part in design.buffers()]
    monkeypatch.setattr(design_module, "SMALL_BYTES", 100)
    some = design.sample()
    assert [len(part) for part in some] == [64] * len(some)
    first, last = (design.buffers()[0][i] for i in (0, -1))
    assert torch.equal(some[0][0], first)
    assert torch.equal(some[0][-1], last)


def test_the_hash_of_sparse_data_covers_where_the_numbers_stand():
    X = sparse.csr_array(np.array([[0.0, 1.0], [0.0, 0.0]]))
    moved = sparse.csr_array(np.array([[1.0, 0.0], [0.0, 0.0]]))
    below = sparse.csr_array(np.array([[0.0, 0.0], [0.0, 1.0]]))
    hashes = {content_hash(as_design(form).buffers()) for form in (X, moved, below)}
    assert len(hashes) == 3


@pytest.mark.parametrize("fast", [True, False])
def test_bfloat16_is_offered_where_the_processor_has_it(fast: bool, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(design_module, "has_fast_bfloat16", lambda: fast)
    dense = as_design(draw(2, 2))
    assert dense.precisions == ((torch.bfloat16,) if fast else ()) + (torch.float32, torch.float64)
    assert as_design(sparse.csr_array((2, 2))).precisions == (torch.float32, torch.float64)


@pytest.mark.parametrize("names", [("_is_amx_tile_supported",), ("_is_avx512_bf16_supported",), ()])
def test_either_instruction_set_is_fast(names: tuple[str, ...], monkeypatch: pytest.MonkeyPatch):
    for name in ("_is_amx_tile_supported", "_is_avx512_bf16_supported"):
        monkeypatch.setattr(torch.cpu, name, lambda found=name in names: found, raising=False)
    assert design_module.has_fast_bfloat16() == bool(names)
    for name in ("_is_amx_tile_supported", "_is_avx512_bf16_supported"):
        monkeypatch.delattr(torch.cpu, name)
    assert not design_module.has_fast_bfloat16()


def test_a_piece_of_more_names_the_example_in_the_whole():
    bad = torch.zeros(4, 2)
    bad[2, 1] = np.nan
    with pytest.raises(
        ValueError, match="the table has a NaN or infinity, first in example 102; impute or drop"
    ):
        check_finite(bad, "the table", 100)
    check_finite(torch.zeros(0, 2), "the table")


def test_inputs_that_are_a_design_stay_one():
    design = as_design(draw(2, 2))
    assert as_inputs(design) is design
    found = as_inputs(np.ones((2, 2)))
    assert isinstance(found, torch.Tensor)

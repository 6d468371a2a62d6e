"""The map from parameters to outputs against `torch.nn.Linear`, and its transpose against the map."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse

from tests.support.cases import draw
from tests.support.compare import assert_close_per_row
from upweight.data.design import as_design
from upweight.linear.output_map import OutputMap

SHAPES = st.tuples(st.integers(1, 3), st.integers(1, 5), st.booleans())
TIGHT = 1e-12


def size(c: int, d: int, intercept: bool) -> int:
    return c * (d + intercept)


def block_of(X: torch.Tensor, kind: str = "dense"):
    design = as_design(sparse.csr_array(X.numpy()) if kind == "sparse" else X)
    return design.block(slice(None), torch.float64)


@given(SHAPES, st.integers(1, 4), st.integers(1, 6), st.sampled_from(["dense", "sparse"]))
def test_outputs_are_those_of_a_linear_layer(shape, k: int, b: int, kind: str):
    c, d, intercept = shape
    to_outputs, X = OutputMap(*shape), draw(b, d)
    rows = draw(k, size(*shape), seed=1)
    found = to_outputs.forward(block_of(X, kind), rows)
    assert found.shape == (b, c, k)
    weights, biases = to_outputs.split(rows)
    assert (biases is None) == (not intercept)
    for j in range(k):
        bias = None if biases is None else biases[j]
        assert_close_per_row(found[:, :, j], torch.nn.functional.linear(X, weights[j], bias), TIGHT)
    assert torch.equal(weights[0], to_outputs.layout.unpack(rows[0])["weight"])


@given(SHAPES, st.integers(1, 4), st.integers(1, 6), st.sampled_from(["dense", "sparse"]))
def test_the_transpose_is_the_transpose(shape, k: int, b: int, kind: str):
    """<Z, X theta> = <X^T Z, theta>, whatever both are."""
    c, d, _ = shape
    to_outputs, block = OutputMap(*shape), block_of(draw(b, d), kind)
    rows, Z = draw(k, size(*shape), seed=1), draw(b, c, k, seed=2)
    back = to_outputs.backward(block, Z)
    assert back.shape == rows.shape
    inner = (to_outputs.forward(block, rows) * Z).sum((0, 1))
    assert_close_per_row((back * rows).sum(1, keepdim=True), inner[:, None], 1e-9)


@given(SHAPES, st.integers(1, 6))
def test_outer_products_are_the_transpose_row_by_row(shape, b: int):
    c, d, _ = shape
    to_outputs, X, r = OutputMap(*shape), draw(b, d), draw(b, 2, c, seed=3)
    found = to_outputs.outer(r, X)
    assert found.shape == (b, 2, size(*shape))
    for i in range(b):
        wanted = to_outputs.backward(block_of(X[i : i + 1]), r[i : i + 1].mT)
        assert_close_per_row(found[i], wanted, TIGHT)
    assert_close_per_row(to_outputs.outer(r[:, 0], X), found[:, 0], 1e-15)


@given(SHAPES, st.lists(st.booleans(), min_size=18, max_size=18))
def test_shifts_move_all_outputs_alike_and_are_all_of_them(shape, penalised: list[bool]):
    """Those directions that no penalty holds, found by linear algebra: no l2 along them, all outputs moved alike."""
    d = shape[1]
    p, to_outputs = size(*shape), OutputMap(*shape)
    l2 = torch.tensor(penalised[:p]).double()
    found = to_outputs.shifts(l2)
    X = draw(2 * d + 3, d, seed=4)
    eta = to_outputs.forward(block_of(X), torch.eye(p).double())  # (b, c, p)
    differences = (eta - eta.mean(1, keepdim=True)).flatten(0, 1)
    held = torch.cat([differences, torch.diag(l2)])
    count = p - int(torch.linalg.matrix_rank(held))
    if found is None:
        assert count == 0
        return
    assert found.shape == (count, p)
    assert_close_per_row(found @ found.T, torch.eye(count).double(), TIGHT)
    assert float((held @ found.T).abs().max()) < 1e-12


@pytest.mark.parametrize("intercept", [True, False])
def test_with_every_weight_penalised_only_the_intercepts_are_free(intercept: bool):
    to_outputs = OutputMap(3, 2, intercept)
    l2 = torch.ones(size(3, 2, intercept)).double()
    assert to_outputs.shifts(l2) is None
    if intercept:
        l2[-3:] = 0
        found = to_outputs.shifts(l2)
        assert found is not None
        assert_close_per_row(found, torch.cat([torch.zeros(6), torch.ones(3)]).double()[None] / 3**0.5, TIGHT)

"""Vectors that are sums of outer products, each against the flat vectors that it stands for."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.cases import draw
from tests.support.compare import assert_close_per_row
from upweight.linalg import outer_products
from upweight.linalg.outer_products import Outer, Pairs, WeightLayout, WeightMatrix, joined, written_out

B = 5


def layout_of(sizes: list[tuple[int, int, bool]], q: int, seed: int = 0) -> WeightLayout:
    """Weight matrices (rows, columns, intercept) and q other entries, scattered over flat vectors."""
    counts = [r * (s + intercept) for r, s, intercept in sizes]
    order = torch.randperm(sum(counts) + q, generator=torch.Generator().manual_seed(seed))
    *places, rest = order.split([*counts, q])
    matrices = [WeightMatrix(index, r, s) for index, (r, s, _) in zip(places, sizes, strict=True)]
    return WeightLayout(tuple(matrices), rest.sort().values)


def length(layout: WeightLayout) -> int:
    return len(layout.rest) + sum(len(matrix.index) for matrix in layout.matrices)


def pairs_of(layout: WeightLayout, positions: int = 1, seed: int = 0) -> Pairs:
    layers = [
        (
            draw(B, positions, matrix.rows, seed=seed + i),
            draw(B, positions, matrix.columns + matrix.intercept, seed=seed + 10 + i),
        )
        for i, matrix in enumerate(layout.matrices)
    ]
    return Pairs(layers, draw(B, len(layout.rest), seed=seed + 20))


def outer_of(layout: WeightLayout, k: int = 3, R: int = 2, seed: int = 50) -> Outer:
    layers = [
        (
            draw(R, k, matrix.rows, seed=seed + i),
            draw(R, k, matrix.columns + matrix.intercept, seed=seed + 10 + i),
        )
        for i, matrix in enumerate(layout.matrices)
    ]
    return Outer(layout, layers, draw(k, len(layout.rest), seed=seed + 20))


def entry_by_entry(layout: WeightLayout, layers, rest: torch.Tensor, example_first: bool) -> torch.Tensor:
    """Sums of outer products as flat vectors, by loops."""
    out = torch.zeros(len(rest), length(layout), dtype=torch.float64)
    out[:, layout.rest] = rest
    for matrix, (left, right) in zip(layout.matrices, layers, strict=True):
        for i in range(len(rest)):
            terms = (left[i], right[i]) if example_first else (left[:, i], right[:, i])
            G = torch.stack([torch.outer(x, y) for x, y in zip(*terms, strict=True)]).sum(0)
            for r in range(matrix.rows):
                for s in range(matrix.columns):
                    out[i, matrix.index[r * matrix.columns + s]] = G[r, s]
                if matrix.intercept:
                    out[i, matrix.index[matrix.rows * matrix.columns + r]] = G[r, -1]
    return out


SHAPES = {
    "plain": ([(2, 3, False)], 0),
    "intercept": ([(2, 3, True)], 0),
    "tall": ([(6, 2, True)], 1),
    "many": ([(2, 3, True), (4, 2, False), (1, 1, True)], 3),
    "none": ([], 4),
}
every_layout = pytest.mark.parametrize("name", SHAPES)


@pytest.mark.parametrize("intercept", [False, True])
def test_a_matrix_and_its_entries(intercept: bool):
    layout = layout_of([(2, 3, intercept)], 2)
    (matrix,) = layout.matrices
    assert matrix.intercept == intercept
    rows = draw(4, length(layout))
    stack = matrix.stack(rows)
    assert stack.shape == (4, 2, 3 + intercept)
    assert torch.equal(matrix.flat(stack), rows[:, matrix.index])
    assert torch.equal(stack[:, 1, 2], rows[:, matrix.index[5]])
    if intercept:
        assert torch.equal(stack[:, 1, 3], rows[:, matrix.index[7]])
    assert torch.equal(matrix.stack(rows[0]), stack[0])


@every_layout
@pytest.mark.parametrize("positions", [1, 3])
def test_gradients_written_out(name: str, positions: int):
    layout = layout_of(*SHAPES[name])
    pairs = pairs_of(layout, positions)
    assert_close_per_row(layout.join(pairs), entry_by_entry(layout, *pairs, example_first=True), 1e-13)


@every_layout
@pytest.mark.parametrize("positions", [1, 3])
def test_products_of_flat_vectors_with_gradients(name: str, positions: int):
    layout = layout_of(*SHAPES[name])
    pairs, rows = pairs_of(layout, positions), draw(4, length(layout), seed=9)
    assert_close_per_row(layout.take_apart(rows).products(pairs), rows @ layout.join(pairs).T, 1e-12)


@every_layout
@pytest.mark.parametrize("positions", [1, 3])
def test_products_of_outer_products_with_gradients(name: str, positions: int):
    layout = layout_of(*SHAPES[name])
    pairs, outer = pairs_of(layout, positions), outer_of(layout)
    assert_close_per_row(outer.products(pairs), outer.flat() @ layout.join(pairs).T, 1e-12)


@every_layout
def test_outer_products_written_out(name: str):
    layout = layout_of(*SHAPES[name])
    outer = outer_of(layout)
    assert_close_per_row(
        outer.flat(), entry_by_entry(layout, outer.layers, outer.rest, example_first=False), 1e-13
    )
    assert torch.equal(written_out(outer), outer.flat())
    assert len(outer) == 3


@every_layout
def test_the_sign_and_the_product_with_one_vector(name: str):
    layout = layout_of(*SHAPES[name])
    outer, vector = outer_of(layout), draw(length(layout), seed=8)
    assert torch.equal((-outer).flat(), -outer.flat())
    assert_close_per_row((outer @ vector)[:, None], (outer.flat() @ vector)[:, None], 1e-12)


@settings(max_examples=30)
@given(st.integers(1, 5), st.integers(1, 5), st.booleans(), st.integers(1, 40))
def test_few_vectors_at_a_time_are_all_of_them(r: int, s: int, intercept: bool, slab: int):
    """Whichever side is longer, and however few vectors fit."""
    layout = layout_of([(r, s, intercept)], 1)
    pairs, rows = pairs_of(layout), draw(7, length(layout), seed=9)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(outer_products, "SLAB", slab)
        found = layout.take_apart(rows).products(pairs)
    assert_close_per_row(found, rows @ layout.join(pairs).T, 1e-12)


def test_blocks_of_examples_joined():
    layout = layout_of([(2, 3, True), (3, 1, False)], 2)
    parts = [pairs_of(layout, 2, seed) for seed in (0, 100, 200)]
    assert torch.equal(layout.join(joined(parts)), torch.cat([layout.join(part) for part in parts]))


def test_what_is_apart_already_stays():
    layout = layout_of([(2, 3, True)], 1)
    outer, rows = outer_of(layout), draw(2, length(layout))
    assert layout.take_apart(outer) is outer
    assert written_out(rows) is rows


def test_another_precision():
    layout = layout_of([(2, 3, True)], 1)
    outer = outer_of(layout)
    single = outer.to(torch.zeros(1))
    assert single.rest.dtype == single.flat().dtype == torch.float32
    assert single.layout is layout
    assert_close_per_row(single.flat(), outer.flat(), 1e-6)

"""Changes of variables against their matrices written out, and powers of two."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.support.cases import draw
from tests.support.compare import assert_close_per_row
from upweight.linalg.coordinates import Coordinates, power_of_two


def written_out(c: int, scale: torch.Tensor, center: torch.Tensor) -> torch.Tensor:
    """T (p, p) with theta = T phi."""
    d = len(center)
    T = torch.eye(c * d + c, dtype=torch.float64)
    for k in range(c):
        T[c * d + k, k * d : (k + 1) * d] = -center
    return T @ torch.diag(scale)


@given(st.integers(1, 3), st.integers(1, 4), st.integers(0, 99))
def test_they_are_their_matrix(c: int, d: int, seed: int):
    scale, center = draw(c * d + c, seed=seed).exp(), draw(d, seed=seed + 1)
    T, there = written_out(c, scale, center), Coordinates(scale, center)
    rows = draw(3, c * d + c, seed=seed + 2)
    before = rows.clone()
    assert_close_per_row(there.outward(rows), rows @ T.T, 1e-12)
    assert_close_per_row(there.inward(rows), rows @ T, 1e-12)
    assert_close_per_row(there.parameters(rows), torch.linalg.solve(T, rows.T).T, 1e-10)
    assert_close_per_row(there.derivatives(rows), torch.linalg.solve(T.T, rows.T).T, 1e-10)
    assert torch.equal(rows, before)


@pytest.mark.parametrize("there", [Coordinates(), Coordinates(scale=torch.tensor([2.0, 0.5, 4.0]))])
def test_without_a_centre_they_scale_alone(there: Coordinates):
    rows = draw(2, 3)
    scale = torch.ones(3) if there.scale is None else there.scale
    for found in (there.outward(rows), there.inward(rows)):
        assert torch.equal(found, rows * scale)
    for found in (there.parameters(rows), there.derivatives(rows)):
        assert torch.equal(found, rows / scale)
    assert there.reach == 1.0
    assert there.ordinary


@pytest.mark.parametrize(
    ("scale", "center", "ordinary"),
    [
        ([1.0, 1.0, 1.0], [3.0], True),
        ([1.0, 128.0, 1.0], None, False),  # units
        ([1.0, 1.0], [100.0], False),  # far from zero
        ([1e-7, 1e-7], None, False),  # squares of squares leave float32
        ([1e7, 1e7], None, False),
    ],
)
def test_what_is_ordinary_needs_no_change(scale: list[float], center: list[float] | None, ordinary: bool):
    found = Coordinates(torch.tensor(scale), None if center is None else torch.tensor(center))
    assert found.ordinary == ordinary


@given(st.lists(st.floats(1e-200, 1e200), min_size=1, max_size=5))
def test_powers_of_two_are_near_the_inverse(sizes: list[float]):
    values = torch.tensor(sizes, dtype=torch.float64)
    found = power_of_two(values)
    assert bool((torch.frexp(found)[0] == 0.5).all())
    assert bool(((found * values <= 2**0.5 + 1e-9) & (found * values >= 0.5**0.5 - 1e-9)).all())


def test_what_has_no_inverse_is_left_alone():
    values = torch.tensor([0.0, -1.0, torch.nan, torch.inf, 4.0])
    assert power_of_two(values).tolist() == [1.0, 1.0, 1.0, 1.0, 0.25]

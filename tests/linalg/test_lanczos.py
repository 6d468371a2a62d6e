"""Eigenvalues from products alone against those of the explicit matrix, and what is said of negative ones."""

import math
import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse.linalg import ArpackError

from tests.support.cases import draw
from tests.support.compare import assert_close_per_row
from tests.support.matrices import with_eigenvalues
from upweight.linalg import lanczos
from upweight.linalg.lanczos import (
    eigenvectors,
    ends_of_spectrum,
    indefinite,
    leading_eigenpairs,
    lowest_eigenvalue,
)

CPU = torch.device("cpu")


class Counted:
    """Products with a matrix, and how many there were."""

    def __init__(self, A: torch.Tensor) -> None:
        self.A, self.count = A, 0

    def __call__(self, rows: torch.Tensor) -> torch.Tensor:
        self.count += len(rows)
        return rows @ self.A


def ends(product, p: int, rounds: int, dtype: torch.dtype = torch.float64) -> tuple[float, float]:
    return ends_of_spectrum(product, p, dtype=dtype, device=CPU, rounds=range(rounds))


@settings(max_examples=40)
@given(st.lists(st.floats(-4, 4), min_size=1, max_size=12), st.integers(0, 100))
def test_what_is_found_is_an_eigenvalue_and_never_outside(values: list[float], seed: int):
    """The end itself, unless the random start has hardly anything of its eigenvector."""
    A = with_eigenvalues(torch.tensor(values).double(), seed)
    product = Counted(A)
    low, high = ends(product, len(A), 40)
    true = torch.linalg.eigvalsh(A)
    size = float(true.abs().max())
    assert float(true[0]) - 1e-9 * size <= low <= high <= float(true[-1]) + 1e-9 * size
    for found in (low, high):
        assert float((true - found).abs().min()) <= max(0.0101 * abs(found), 1.01e-5 * size)
    assert product.count <= 40


@pytest.mark.parametrize("seed", range(5))
def test_both_ends_are_found_where_they_stand_apart(seed: int):
    A = with_eigenvalues(torch.tensor([-2.0, -0.5, 0.1, 0.2, 1.0, 3.0]), seed)
    low, high = ends(Counted(A), 6, 40)
    assert low == pytest.approx(-2.0, rel=0.01)
    assert high == pytest.approx(3.0, rel=0.01)


@pytest.mark.parametrize("p", [200, 500])
def test_many_parameters_take_few_products(p: int):
    values = torch.cat([torch.tensor([-0.5, 7.0]), torch.linspace(0, 2, p - 2)])
    product = Counted(with_eigenvalues(values))
    low, high = ends(product, p, 100)
    assert low == pytest.approx(-0.5, rel=0.01)
    assert high == pytest.approx(7.0, rel=0.01)
    assert product.count < 60


def test_no_more_products_than_there_are_rounds():
    product = Counted(with_eigenvalues(torch.linspace(-1, 1, 50)))
    low, high = ends(product, 50, 3)
    assert product.count == 3
    assert -1 < low < high < 1
    assert ends(product, 50, 0) == (0.0, 0.0)
    assert product.count == 3


def test_an_invariant_direction_ends_it():
    product = Counted(3 * torch.eye(20).double())
    assert list(ends(product, 20, 50)) == pytest.approx([3.0, 3.0])
    assert product.count == 1


def test_single_precision_is_enough():
    A = with_eigenvalues(torch.linspace(-1, 5, 30)).float()
    low, high = ends(lambda rows: rows @ A, 30, 40, torch.float32)
    assert low == pytest.approx(-1, rel=0.02)
    assert high == pytest.approx(5, rel=0.02)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_leading_eigenpairs_are_those_of_largest_size(dtype: torch.dtype, seed: int):
    values = torch.tensor([-6.0, 4.0, -3.0, 1.0, 0.5, 0.3, 0.1, 0.0, -0.2, 0.05])
    A = with_eigenvalues(values, seed)
    found, vectors = leading_eigenpairs(
        lambda rows: rows @ A.to(dtype), 10, 3, dtype=dtype, device=CPU, seed=seed
    )
    assert found.dtype == vectors.dtype == torch.float64
    assert_close_per_row(found.sort().values[:, None], torch.tensor([[-6.0], [-3.0], [4.0]]), 1e-4)
    assert_close_per_row((A @ vectors).T, (vectors * found).T, 1e-2)
    assert_close_per_row(vectors.T @ vectors, torch.eye(3), 1e-6)


def test_the_start_is_drawn_from_the_seed():
    A = with_eigenvalues(torch.linspace(0.1, 1, 30))
    product = Counted(A)
    first, again, other = (
        leading_eigenpairs(product, 30, 2, dtype=torch.float64, device=CPU, seed=seed)[1]
        for seed in (0, 0, 1)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("explicit", [2000, 5])
def test_the_lowest_eigenvalue_by_both_ways(explicit: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(lanczos, "EXPLICIT", explicit)
    for lowest in (-2.0, 0.25):
        A = with_eigenvalues(torch.cat([torch.tensor([lowest]), torch.linspace(1, 3, 19)]))
        assert lowest_eigenvalue(A) == pytest.approx(lowest, rel=2e-3)
        assert lowest_eigenvalue(A.float()) == pytest.approx(lowest, rel=2e-3)


def test_a_lowest_eigenvalue_that_nobody_finds(monkeypatch: pytest.MonkeyPatch):
    def fails(*args, **options):
        raise ArpackError(-9999)

    monkeypatch.setattr(lanczos, "EXPLICIT", 1)
    monkeypatch.setattr(lanczos, "eigsh", fails)
    lowest = lowest_eigenvalue(torch.eye(2))
    assert math.isnan(lowest)
    said = str(indefinite(lowest))
    assert "nan" not in said
    assert "pass damping > 0" in said


@pytest.mark.parametrize("lowest", [0.0, 1e-13, -1e-13, 0.3])
def test_a_matrix_that_is_singular_to_rounding(lowest: float):
    """Above 0 as well: that the factorisation failed says that it is rounding."""
    error = indefinite(lowest)
    assert "singular" in str(error)
    assert "l2 > 0" in str(error)
    assert error.eigenvalue == lowest


@given(st.floats(-1e6, -1e-9))
def test_the_damping_that_the_error_names_makes_the_matrix_definite(lowest: float):
    said = str(indefinite(lowest))
    named = re.search(r"say damping=([\d.e+-]+)\)", said)
    assert named is not None
    assert float(named[1]) + lowest > 0
    assert f"most negative eigenvalue is {lowest:.3e}" in said


def test_eigenvectors_are_columns_in_ascending_order():
    A = with_eigenvalues(torch.tensor([3.0, -1.0, 0.5]), seed=3)
    Q = eigenvectors(A)
    assert_close_per_row(Q.T @ A @ Q, torch.diag(torch.tensor([-1.0, 0.5, 3.0])), 1e-12)


@pytest.mark.parametrize("how", ["raises", "gives NaN"])
def test_eigenvectors_where_single_precision_fails(how: str, monkeypatch: pytest.MonkeyPatch):
    A = draw(8, 5)
    A, eigh = (A.T @ A).float(), torch.linalg.eigh

    def fails(matrix: torch.Tensor):
        values, vectors = eigh(matrix)
        if matrix.dtype == torch.float64:
            return values, vectors
        if how == "raises":
            raise RuntimeError("did not converge")
        return values, vectors * torch.nan

    monkeypatch.setattr(torch.linalg, "eigh", fails)
    Q = eigenvectors(A)
    assert Q.dtype == torch.float32
    monkeypatch.undo()
    assert_close_per_row(Q.abs(), eigenvectors(A.double()).abs(), 1e-6)

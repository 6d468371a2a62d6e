"""Every factorisation against its explicit matrix: what all of them promise, and Cholesky and diagonal ones alone."""

import pytest
import torch

from tests.support.cases import draw
from tests.support.compare import assert_close_per_row
from tests.support.matrices import FACTORS, SMALLEST, positive_definite, with_eigenvalues
from upweight.errors import IndefiniteError
from upweight.linalg.factorizations import CholeskyFactor, DiagonalFactor


def solved(A: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    return torch.linalg.solve(A, rows.T).T


every_factor = pytest.mark.parametrize("name", FACTORS)


@every_factor
def test_solve_is_the_inverse(name: str):
    factor, A = FACTORS[name]()
    rows = draw(5, len(A), seed=1)
    assert_close_per_row(factor.solve(rows), torch.linalg.solve(A, rows.T).T, 1e-9)
    assert_close_per_row(factor.solve(rows) @ A, rows, 1e-9)


@every_factor
def test_quadratic_is_the_squared_norm_in_the_inverse(name: str):
    factor, A = FACTORS[name]()
    rows = draw(5, len(A), seed=2)
    wanted = (rows * torch.linalg.solve(A, rows.T).T).sum(1)
    assert_close_per_row(factor.quadratic(rows)[:, None], wanted[:, None], 1e-9)


@every_factor
def test_the_product_is_that_of_the_matrix(name: str):
    factor, A = FACTORS[name]()
    rows = draw(5, len(A), seed=3)
    if factor.product is None:
        assert name.startswith(("dual", "updated"))  # no explicit matrix: a product is a pass over the data
        return
    assert_close_per_row(factor.product(rows), rows @ A, 1e-12)


@every_factor
def test_rows_do_not_see_each_other(name: str):
    factor, A = FACTORS[name]()
    rows = draw(4, len(A), seed=4)
    rows[2] *= 1e6
    together, squares = factor.solve(rows), factor.quadratic(rows)
    for i, row in enumerate(rows):
        assert_close_per_row(factor.solve(row[None]), together[i : i + 1], 1e-9)
        assert_close_per_row(factor.quadratic(row[None]), squares[i : i + 1], 1e-9)


@every_factor
def test_zero_rows_and_no_rows(name: str):
    factor, A = FACTORS[name]()
    assert not factor.solve(torch.zeros(2, len(A)).double()).any()
    assert not factor.quadratic(torch.zeros(2, len(A)).double()).any()
    assert factor.solve(torch.zeros(0, len(A)).double()).shape == (0, len(A))


@every_factor
def test_what_is_given_is_not_written_to(name: str):
    factor, A = FACTORS[name]()
    rows = draw(3, len(A), seed=5)
    before = rows.clone()
    once = factor.solve(rows)
    factor.quadratic(rows)
    assert torch.equal(rows, before)
    assert torch.equal(factor.solve(rows), once)


@every_factor
def test_only_the_dual_factor_has_leverages(name: str):
    factor, _ = FACTORS[name]()
    assert (factor.leverages is not None) == name.startswith("dual")


@pytest.mark.parametrize("name", ["cholesky", "dual", "dual, 1 unpenalised"])
def test_rows_of_single_precision_are_solved_in_that_of_the_factor(name: str):
    factor, A = FACTORS[name]()
    rows = draw(4, len(A), seed=6).float()
    found = factor.solve(rows)
    assert factor.dtype == torch.float64
    assert found.dtype == torch.float32
    assert torch.equal(found, factor.solve(rows.double()).float())


def test_cholesky_squares_in_single_precision_are_those_of_double():
    factor, A = FACTORS["cholesky"]()
    rows = draw(4, len(A), seed=6).float()
    assert torch.equal(factor.quadratic(rows), factor.quadratic(rows.double()).float())


@pytest.mark.parametrize("seed", range(3))
def test_a_lifted_matrix_is_inverted_and_the_plain_one_multiplied(seed: int):
    """A flat direction g, to which no row asked about belongs: any curvature along it gives one answer."""
    A = with_eigenvalues(torch.tensor([1.0, 0.1, SMALLEST, 0.0]), seed)
    values, vectors = torch.linalg.eigh(A)
    g = vectors[:, int(values.abs().argmin())]
    rows = draw(3, 4, seed=seed)
    rows -= (rows @ g)[:, None] * g
    answers = [CholeskyFactor(A, size * g[None]).solve(rows) for size in (1.0, 0.01)]
    for answer in answers:
        assert_close_per_row(answer, rows @ torch.linalg.pinv(A, rcond=1e-8), 1e-8)
    product = CholeskyFactor(A, g[None]).product
    assert product is not None
    assert_close_per_row(product(rows + g), rows @ A, 1e-9)


@pytest.mark.parametrize("lowest", [-1e-3, -2.0])
def test_an_indefinite_matrix_is_refused_with_its_lowest_eigenvalue(lowest: float):
    A = with_eigenvalues(torch.tensor([3.0, 1.0, lowest], dtype=torch.float64))
    with pytest.raises(IndefiniteError, match="indefinite") as raised:
        CholeskyFactor(A)
    assert raised.value.eigenvalue == pytest.approx(lowest, rel=1e-9)


def test_a_singular_matrix_is_refused():
    with pytest.raises(IndefiniteError, match="singular"):
        CholeskyFactor(torch.diag(torch.tensor([1.0, 0.0])))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_units_do_not_matter(dtype: torch.dtype):
    A, scale = positive_definite(5), torch.logspace(-12, 12, 5).double()
    rows = draw(3, 5)
    factor = CholeskyFactor((A * scale * scale[:, None]).to(dtype))
    wanted = solved(A, rows)
    close = 1e-2 if dtype == torch.float32 else 1e-9
    assert_close_per_row(factor.solve(rows * scale) * scale, wanted, close)
    assert_close_per_row(factor.quadratic(rows * scale), (rows * wanted).sum(1), close)


def test_a_float32_matrix_whose_pivots_drown_in_rounding_is_factorised_in_float64():
    A = with_eigenvalues(torch.tensor([1.0, 0.5, 2e-8])).float()
    A = (A + A.T) / 2
    assert int(torch.linalg.cholesky_ex(A)[1])
    assert float(torch.linalg.eigvalsh(A.double())[0]) > 0
    factor, rows = CholeskyFactor(A), draw(2, 3)
    assert factor.dtype == torch.float64
    assert_close_per_row(factor.solve(rows), solved(A.double(), rows), 1e-6)


@pytest.mark.parametrize("size", [1e-8, 1e8])
def test_rounding_bounds_what_a_matrix_in_rounded_numbers_answers(size: float):
    A = with_eigenvalues(torch.tensor([1.0, 0.3, 1e-9]))
    factor, rows = CholeskyFactor(size * A), size * draw(5, 3)
    wanted = solved(A, rows / size)
    found = factor.solve(rows)
    energy = ((found - wanted) @ (size * A) * (found - wanted)).sum(1).sqrt()
    bound = factor.rounding * (found * (size * A.diagonal()).sqrt()).norm(dim=1)
    assert bool((energy <= bound).all())
    assert bool((bound <= 1e6 * energy + 1e-3 * (rows * found).sum(1).sqrt()).all())


def test_a_diagonal_factor_divides():
    factor = DiagonalFactor(torch.tensor([4.0, 0.5]))
    assert factor.solve(torch.tensor([[2.0, 3.0]])).tolist() == [[0.5, 6.0]]
    assert factor.quadratic(torch.tensor([[2.0, 3.0]])).tolist() == [19.0]
    assert factor.product is not None
    assert factor.product(torch.tensor([[2.0, 3.0]])).tolist() == [[8.0, 1.5]]

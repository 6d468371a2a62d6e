"""Hessians of linear models against torch.autograd on the objective written out plainly."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse

from tests.support.cases import BY_NAME, CASES, Case, case_id, draw
from tests.support.compare import assert_close_per_row
from upweight import Influence, LinearProblem, Logistic
from upweight.linalg.rows import SparseRows, as_rows
from upweight.linear.second_derivative import BLOCK_ELEMENTS, product_rows, rows_at_once

every_case = pytest.mark.parametrize("case", CASES, ids=case_id)
TIGHT = 1e-10


@every_case
def test_operator_matrix_and_root(case: Case):
    problem = case.elsewhere
    H = case.hessian(problem.theta)
    rows = draw(2 * case.p + 1, case.p)  # more right-hand sides than parameters
    for second in (problem.hessian, problem.gauss_newton):
        assert_close_per_row(second.product()(rows), rows @ H, TIGHT)
        assert_close_per_row(second.matrix(), H, TIGHT)
    U = problem.hessian.root()
    assert (U is None) == (case.n * case.c >= case.p)
    if U is not None:
        U = as_rows(U).dense()
        assert_close_per_row(U.T @ U + torch.diag(case.penalty), H, TIGHT)


@every_case
def test_sampled_is_the_curvature_of_its_own_examples(case: Case):
    problem = case.elsewhere
    rows = draw(4, case.p)
    index = torch.randint(case.n, (4, 3), generator=torch.Generator().manual_seed(0))

    def one(i: int) -> torch.Tensor:
        def value(theta: torch.Tensor) -> torch.Tensor:
            picked = case.w[index[i]] * case.losses(theta, case.dense[index[i]], case.y[index[i]])
            return picked.mean() + (0.5 * case.penalty * theta**2).sum()

        return rows[i] @ torch.autograd.functional.hessian(value, problem.theta)

    assert_close_per_row(
        problem.hessian.minibatch_product(rows, index), torch.stack([one(i) for i in range(4)]), TIGHT
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", ["softmax", "logistic sparse intercept weights", "squared two outputs"])
def test_lower_precision_is_only_less_precise(name: str, dtype: torch.dtype):
    hessian, rows = BY_NAME[name].elsewhere.hessian, draw(3, BY_NAME[name].p)
    rtol = 1e-5 if dtype == torch.float32 else 1e-14
    found = hessian.product(dtype)(rows.to(dtype))
    assert found.dtype == hessian.matrix(dtype).dtype == dtype
    assert_close_per_row(found, hessian.product()(rows), rtol)
    assert_close_per_row(hessian.matrix(dtype), hessian.matrix(), rtol)


@every_case
def test_matrices_are_symmetric_to_the_bit(case: Case):
    """Factorisations read one triangle only: the other one must not say something else."""
    H = case.elsewhere.hessian.matrix()
    assert torch.equal(H, H.T)


@pytest.mark.parametrize("size", [1, 7, 40])
@pytest.mark.parametrize("name", ["softmax weights float32", "logistic sparse intercept weights"])
def test_matrices_do_not_depend_on_the_block_size(name: str, size: int, monkeypatch: pytest.MonkeyPatch):
    problem = BY_NAME[name].elsewhere
    whole = problem.hessian.matrix()
    monkeypatch.setattr("upweight.linear.second_derivative.rows_at_once", lambda d: size)
    assert_close_per_row(problem.hessian.matrix(), whole, 1e-13)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    "name", ["softmax weights float32", "logistic n < p intercept", "squared two outputs"]
)
def test_samples_have_the_matrix_without_penalty_as_covariance(name: str, seed: int):
    case = BY_NAME[name]
    C = case.elsewhere.hessian.matrix() - torch.diag(case.penalty)
    drawn = case.elsewhere.hessian.sample(20_000, torch.Generator().manual_seed(seed))
    found = drawn.T @ drawn / len(drawn)
    # Each entry is a mean of 20,000 products with variance C_ii C_jj + C_ij^2.
    deviation = ((torch.outer(C.diagonal(), C.diagonal()) + C.square()) / len(drawn)).sqrt()
    assert float(((found - C).abs() / deviation.clamp(min=1e-12)).max()) < 5
    assert float((drawn.mean(0).abs() / (C.diagonal() / len(drawn)).sqrt().clamp(min=1e-12)).max()) < 5
    again = case.elsewhere.hessian.sample(5, torch.Generator().manual_seed(seed))
    assert torch.equal(again, case.elsewhere.hessian.sample(5, torch.Generator().manual_seed(seed)))
    assert not torch.equal(again, case.elsewhere.hessian.sample(5, torch.Generator().manual_seed(seed + 9)))


@given(st.integers(1, 10**6), st.integers(1, 10**5), st.integers(1, 1000))
def test_blocks_fit_into_the_cache_and_are_never_tiny(d: int, k: int, c: int):
    assert 2048 <= rows_at_once(d) <= 8192
    assert rows_at_once(d) * d <= BLOCK_ELEMENTS or rows_at_once(d) == 2048
    assert 1024 <= product_rows(k, c) <= 8192
    assert product_rows(k, c) * k * c <= BLOCK_ELEMENTS or product_rows(k, c) == 1024
    assert product_rows(0, c) == 8192  # no vectors at all


@pytest.mark.parametrize("intercept", [True, False])
def test_words_have_a_root_that_stays_sparse(intercept: bool):
    """7 texts of 40 words: what is inverted is what the same numbers written out give."""
    X = sparse.random_array((7, 40), density=0.2, rng=np.random.default_rng(0), format="csr")
    y, w = torch.tensor([0, 1, 1, 0, 1, 0, 1]), torch.linspace(0.5, 2, 7).double()
    problem = LinearProblem.fit(X, y, loss=Logistic(), l2=0.1, intercept=intercept, weights=w)
    written_out = LinearProblem(
        X.toarray(),
        y,
        problem.theta[:40],
        problem.theta[40:] if intercept else None,
        loss=Logistic(),
        l2=0.1,
        weights=w,
    )
    root, dense = problem.hessian.root(), written_out.hessian.root()
    assert isinstance(root, SparseRows)
    assert dense is not None
    assert_close_per_row(root.dense(), as_rows(dense).dense(), 1e-13)
    test = (X[:2].toarray(), y[:2])
    assert_close_per_row(
        Influence(problem).on_loss(test).values, Influence(written_out).on_loss(test).values, 1e-10
    )
    found, wanted = Influence(problem).leave_one_out(), Influence(written_out).leave_one_out()
    assert_close_per_row(found.outputs.T, wanted.outputs.T, 1e-10)


@pytest.mark.parametrize("size", [1.0, 1e25, 1e-25])
@pytest.mark.parametrize("intercept", [False, True])
def test_the_diagonal_of_columns_of_any_size(size: float, intercept: bool):
    X = torch.randn(40, 3, generator=torch.Generator().manual_seed(0)).double()
    X[:, 1] *= size
    X[:, 2] = 0
    bias = 0.0 if intercept else None
    problem = LinearProblem(
        X, (X[:, 0] > 0).double(), torch.zeros(3), intercept=bias, loss=Logistic(), l2=0.01
    )
    wanted = problem.hessian.matrix().diagonal()
    found = problem.hessian.diagonal()
    assert found is not None
    assert_close_per_row(found[:, None], wanted[:, None], 1e-3)

"""Nystrom approximations against their explicit matrices."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.support.compare import assert_close_per_row
from upweight import ConjugateGradient, Dense, Exact, IndefiniteError, Nystrom


def curved(p: int, rank: int, seed: int = 0) -> torch.Tensor:
    """A positive semi-definite matrix (p, p) of rank `rank`, with eigenvalues of many sizes."""
    torch.manual_seed(seed)
    root = torch.randn(rank, p, dtype=torch.float64) * torch.logspace(0, -2, rank)[:, None]
    return root.T @ root


def eye(p: int) -> torch.Tensor:
    return torch.eye(p, dtype=torch.float64)


@given(st.integers(2, 20), st.integers(1, 20), st.integers(1, 25), st.integers(0, 3))
def test_it_is_its_factor_and_never_more_than_the_matrix(p, true, rank, seed):
    A, damping = curved(p, min(true, p), seed), 0.1
    curvature = Nystrom(Dense(A, damping), rank=rank, seed=seed)
    N, rows = curvature.operator()(eye(p)), torch.randn(3, p, dtype=torch.float64)
    assert_close_per_row(curvature.factor().solve(rows) @ N, rows, 1e-8)
    assert_close_per_row(
        curvature.factor().quadratic(rows), (rows * torch.linalg.solve(N, rows.T).T).sum(1), 1e-8
    )
    if rank >= p:
        assert_close_per_row(N, A + damping * eye(p), 1e-6)
    omega = torch.linalg.eigh(N)
    assert float(omega.eigenvalues[-1]) <= float(torch.linalg.eigvalsh(A)[-1]) * (1 + 1e-6) + damping
    assert float(omega.eigenvalues[0]) >= damping * (1 - 1e-6)


def test_the_formula():
    """(A R)(R^T A R)^-1 (A R)^T with the same random R, but for its smallest eigenvalue in all other directions."""
    A, rank = curved(12, 12), 5
    generator = torch.Generator().manual_seed(7)
    R = torch.linalg.qr(torch.randn(rank, 12, generator=generator, dtype=torch.float64).T)[0]
    low = A @ R @ torch.linalg.solve(R.T @ A @ R, R.T @ A)
    values, vectors = torch.linalg.eigh(low)
    kept = vectors[:, -rank:]
    wanted = low + float(values[-rank]) * (eye(12) - kept @ kept.T) + 0.3 * eye(12)
    found = Nystrom(Dense(A, 0.3), rank=rank, seed=7).operator()(eye(12))
    assert_close_per_row(found, wanted, 1e-5)


def test_a_matrix_of_low_rank_is_solved_exactly_and_preconditioned_in_two_steps():
    A = curved(60, 8)
    curvature, rows = Dense(A, 1e-3), torch.randn(4, 60, dtype=torch.float64)
    nystrom = Nystrom(curvature, rank=10)
    exact = Exact().prepare(curvature)(rows).value
    assert_close_per_row(nystrom.factor().solve(rows), exact, 1e-5)
    solution = ConjugateGradient(rtol=1e-6, preconditioner=nystrom).prepare(curvature)(rows)
    assert_close_per_row(solution.value, exact, 1e-5)
    assert int(solution.steps.max()) <= 2


def test_single_precision_and_repetition():
    A, rows = Dense(curved(30, 30).float(), 1e-2), torch.randn(2, 30)
    found = Nystrom(A, rank=20).factor().solve(rows)
    assert found.dtype == torch.float32
    assert torch.equal(found, Nystrom(A, rank=20).factor().solve(rows))
    wide = Nystrom(Dense(A.explicit.double(), 1e-2), rank=20).factor(torch.float32)
    assert wide.dtype == torch.float32
    prints = {Nystrom(A, rank=r, seed=s).fingerprint() for r in (20, 21) for s in (0, 1)}
    assert len(prints) == 4


def test_an_indefinite_matrix_is_refused_with_its_cure():
    with pytest.raises(IndefiniteError, match=r"indefinite.*damping above"):
        Nystrom(Dense(torch.diag(torch.tensor([1.0, 2.0, -1.0])).double()), rank=3).factor()


def test_bad_rank():
    with pytest.raises(ValueError, match="rank must be >= 1, got 0"):
        Nystrom(Dense(torch.eye(2)), rank=0)

"""The inverse on leading eigenvectors, against the explicit matrix."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tests.support.compare import assert_close_per_row, residual_in_units
from upweight import Arnoldi, Dense, Exact, GaussNewton, IndefiniteError, Influence, Problem


def falling(p: int, seed: int = 0) -> torch.Tensor:
    """A positive definite matrix (p, p) whose eigenvalues fall from 10 to 1e-3."""
    torch.manual_seed(seed)
    Q = torch.linalg.qr(torch.randn(p, p, dtype=torch.float64))[0]
    return (Q * torch.logspace(1, -3, p, dtype=torch.float64)) @ Q.T


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("p", "rank"), [(40, 7), (100, 7), (100, 99), (100, 200)])
def test_the_formula(p: int, rank: int, seed: int):
    A, rows = falling(p, seed), torch.randn(3, p, dtype=torch.float64)
    values, vectors = torch.linalg.eigh(A)
    inverse = (vectors / values.clamp(min=float(values[-min(rank, p)]))) @ vectors.T
    prepared = Arnoldi(rank=rank, seed=seed).prepare(Dense(A))
    solution = prepared(rows)
    assert_close_per_row(solution.value, rows @ inverse, 1e-3)
    stated = residual_in_units(Dense(A), A, solution.value, rows)
    assert bool(((solution.residual - stated).abs() <= 1e-9 * stated + 1e-13).all())
    assert prepared.quadratic is not None
    assert_close_per_row(prepared.quadratic(rows), (rows @ inverse * rows).sum(1), 1e-3)


def test_what_is_kept_is_answered_and_what_is_not_is_told():
    A = falling(80)
    vectors = torch.linalg.eigh(A)[1].T
    solution = Arnoldi(rank=10).prepare(Dense(A))(torch.stack([vectors[-1], vectors[0]]))
    assert float(solution.residual[0]) < 1e-4
    assert float(solution.residual[1]) > 0.5
    assert "estimated" in solution.verdict


def test_a_network_with_all_its_directions_is_solved_exactly():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 9), nn.Tanh(), nn.Linear(9, 3))
    train = torch.randn(50, 4), torch.randint(0, 3, (50,))
    problem = Problem(model, F.cross_entropy, train, l2=0.01)
    curvature = GaussNewton(problem, 0.01)
    asked = (train[0][:2], train[1][:2])
    scores = Influence(problem, curvature=curvature, solver=Arnoldi(rank=75)).on_loss(asked)
    wanted = Influence(problem, curvature=curvature, solver=Exact()).on_loss(asked)
    assert_close_per_row(scores.values, wanted.values, 1e-3)
    few = Influence(problem, curvature=curvature, solver=Arnoldi(rank=3)).on_loss(asked)
    assert "estimated" in few.verdict


def test_negative_curvature_is_refused():
    A = falling(100)
    with pytest.raises(IndefiniteError, match="indefinite"):
        Arnoldi(rank=3).prepare(Dense(-A))


def test_bad_rank():
    with pytest.raises(ValueError, match="rank must be >= 1, got 0"):
        Arnoldi(rank=0)

"""An index of gradients answers as the influence it was built of, without the training data."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import upweight as uw
from tests.support.compare import assert_close_per_row

N, M = 300, 7


def network(seed: int = 0) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(12, 20), nn.Tanh(), nn.Linear(20, 15), nn.Tanh(), nn.Linear(15, 4))


def data(n: int, seed: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    X = torch.randn(n, 12, generator=generator) * torch.linspace(2, 0.1, 12)
    return X, (X[:, 0] + X[:, 1] * X[:, 2]).mul(1.5).round().long().clamp(-1, 2) + 1


def influence(dtype: torch.dtype = torch.float64, **fields: Any) -> uw.Influence:
    X, y = data(N)
    model = network().to(dtype)
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(150):
        optimiser.zero_grad()
        F.cross_entropy(model(X.to(dtype)), y).backward()
        optimiser.step()
    problem = uw.Problem(model, F.cross_entropy, (X.to(dtype), y), **fields)
    return uw.Influence(problem, curvature=uw.EKFAC(problem, damping=1e-3))


@pytest.fixture(scope="module")
def asked() -> uw.Influence:
    return influence()


def new(dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, torch.Tensor]:
    X, y = data(M, seed=2)
    return X.to(dtype), y


@pytest.mark.filterwarnings("ignore::upweight.NotStationaryWarning")
@pytest.mark.parametrize(("error", "bar"), [(0.0, 1e-9), (1e-6, 1e-6), (1e-3, 1e-3), (0.02, 0.02)])
def test_values_are_those_of_on_loss_to_the_error_that_was_asked_for(
    asked: uw.Influence, tmp_path: Path, error: float, bar: float
):
    truth = asked.on_loss(new())
    found = uw.GradientIndex.build(asked, tmp_path, error=error).on_loss(new())
    assert_close_per_row(found.values, truth.values, bar)
    assert found.residual is not None
    assert float(found.residual.max()) <= 2 * bar
    assert found.drift is not None
    assert_close_per_row(found.drift, truth.drift, max(bar, 1e-6) * 50)
    again = uw.GradientIndex.open(tmp_path, asked.problem)
    assert torch.equal(again.on_loss(new()).values, found.values)
    assert len(again) == N

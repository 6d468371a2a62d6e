"""Small runs of training whose derivatives can be taken by differences of replays."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

import upweight as uw

N, D, C = 24, 5, 3
STEP = 1e-5
"""Of central differences in an example's weight."""


def data(dtype: torch.dtype = torch.float64, n: int = N, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows of three classes that overlap."""
    generator = torch.Generator().manual_seed(seed)
    X = torch.randn(n, D, generator=generator, dtype=torch.float64)
    y = (X[:, :C] + torch.randn(n, C, generator=generator, dtype=torch.float64)).argmax(1)
    return X.to(dtype), y


def network(dtype: torch.dtype = torch.float64, dropout: float = 0.2, seed: int = 0) -> nn.Module:
    """A small smooth network."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(D, 6), nn.Tanh(), nn.Dropout(dropout), nn.Linear(6, C)).to(dtype)


def sgd(**fields: Any) -> Any:
    """Stochastic gradient descent of a small step."""
    return partial(torch.optim.SGD, **{"lr": 0.1, **fields})


def trained(optimizer: Any = None, **fields: Any) -> uw.TrainingRun:
    """A run of three epochs."""
    known = {"epochs": 3, "batch_size": 7, "seed": 3}
    return uw.TrainingRun.train(
        network(), F.cross_entropy, data(), optimizer=optimizer or sgd(), **{**known, **fields}
    )


def differences(run: uw.TrainingRun, test: Any, rows: list[int], measure: Any = None) -> torch.Tensor:
    """The derivatives (m, k) of test measures in the weights of some examples, by replays with other weights."""
    weights = run.start.state.theta.new_ones(2 * len(rows), run.n)
    for k, row in enumerate(rows):
        weights[2 * k, row] += STEP
        weights[2 * k + 1, row] -= STEP
    ends = [end.evaluate(test, measure) for end in run.replays.weighted(weights)]
    return torch.stack(
        [(up - down) / (2 * STEP) for up, down in zip(ends[::2], ends[1::2], strict=True)], dim=1
    )

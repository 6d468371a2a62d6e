"""The multilayer perceptron 784-128-64-10 of the published comparisons, and how it is trained."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional as F

from experiments.data import digits

EPOCHS, BATCH, RATE, DROPOUT = 20, 32, 0.01, 0.1


def load(small: bool) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """5,000 training and 500 test digits, or 300 and 50."""
    X, y, X_test, y_test = digits(small)
    n, m = (300, 50) if small else (5000, 500)
    return X[:n], y[:n], X_test[:m], y_test[:m]


def build() -> nn.Sequential:
    """The untrained network."""
    return nn.Sequential(
        nn.Linear(784, 128),
        nn.ReLU(),
        nn.Dropout(DROPOUT),
        nn.Linear(128, 64),
        nn.ReLU(),
        nn.Dropout(DROPOUT),
        nn.Linear(64, 10),
    )


def train(
    X: torch.Tensor,
    y: torch.Tensor,
    seed: int,
    epochs: int = EPOCHS,
    network: Callable[[], nn.Module] = build,
) -> nn.Module:
    """Plain SGD from a seed that decides weights, order and dropout; in eval mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = network()
        optimiser = torch.optim.SGD(model.parameters(), lr=RATE)
        for _ in range(epochs):
            for rows in torch.randperm(len(X)).split(BATCH):
                optimiser.zero_grad()
                F.cross_entropy(model(X[rows]), y[rows]).backward()
                optimiser.step()
    return model.eval()


def losses(model: nn.Module, X: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """The loss of each example."""
    with torch.no_grad():
        return F.cross_entropy(model(X), y, reduction="none").double()

"""Models whose short derivatives are wrong in torch 2.13, each with the same model in plain arithmetic beside it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

from upweight.types import Tensor


class Prototypes(nn.Module):
    """Distances to learned centres: `torch.cdist` is wrong under vmap for few rows, and has no second derivative."""

    def __init__(self, plain: bool) -> None:
        super().__init__()
        self.plain = plain
        self.centres, self.out = nn.Parameter(torch.randn(4, 5)), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        plain = (x[:, None] - self.centres).square().sum(2).sqrt()
        return self.out(torch.exp(-(plain if self.plain else torch.cdist(x, self.centres))))


class NoisyOr(nn.Module):
    """Products over groups of columns: the forward derivative of `scatter_reduce("prod")` is zero."""

    def __init__(self, plain: bool) -> None:
        super().__init__()
        self.plain = plain
        self.weight = nn.Parameter(0.5 * torch.randn(5, 3))

    def forward(self, x: Tensor) -> Tensor:
        off = 1 - torch.sigmoid(x[:, :, None] * self.weight)
        if self.plain:
            return torch.log(1.01 - off.prod(1))
        groups = torch.arange(3).expand(len(x), 5, 3).flatten(1)
        none = torch.ones(len(x), 3, dtype=x.dtype).scatter_reduce(1, groups, off.flatten(1), "prod")
        return torch.log(1.01 - none)


class WeightNorm(nn.Module):
    """A normalised weight: the second derivative of its parametrisation is wrong."""

    def __init__(self, plain: bool) -> None:
        super().__init__()
        self.plain = plain
        self.layer, self.out = weight_norm(nn.Linear(5, 4)), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        if not self.plain:
            return self.out(self.layer(x).tanh())
        size, way = self.layer.parametrizations.weight.original0, self.layer.parametrizations.weight.original1
        weight = size * way / way.square().sum(1, keepdim=True).sqrt()
        return self.out((x @ weight.T + self.layer.bias).tanh())


class Gate(nn.Module):
    """`nn.Hardsigmoid`, which has no second derivative."""

    def __init__(self, plain: bool) -> None:
        super().__init__()
        self.plain = plain
        self.layer, self.gate, self.out = nn.Linear(5, 4), nn.Hardsigmoid(), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.layer(x)
        return self.out((h / 6 + 0.5).clamp(0, 1) if self.plain else self.gate(h))


TREACHEROUS: dict[str, Callable[[bool], nn.Module]] = {
    "cdist": Prototypes,
    "scatter": NoisyOr,
    "weight norm": WeightNorm,
    "no second derivative": Gate,
}


def twins(kind: str, n: int = 20, dtype: torch.dtype = torch.float64) -> tuple[nn.Module, nn.Module, Any]:
    """A treacherous model, its twin in plain arithmetic with the same parameters, and n examples."""
    torch.manual_seed(0)
    model = TREACHEROUS[kind](False).to(dtype)
    twin = copy.deepcopy(model)
    twin.plain = True
    X = torch.randn(n, 5, dtype=dtype)
    y = (X.norm(dim=1) > 2).long() + (X[:, 0] > 0).long()
    train(twin, X, y)
    model.load_state_dict(twin.state_dict())
    return model, twin, (X, y)


def train(model: nn.Module, X: Tensor, y: Tensor) -> None:
    """A few steps, so that theta is somewhere in particular."""
    optimiser = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(100):
        optimiser.zero_grad()
        F.cross_entropy(model(X), y).backward()
        optimiser.step()

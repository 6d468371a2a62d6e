"""Two small models of 3 classes, and what tests of their derivatives compare with."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from upweight import Problem
from upweight.types import Tensor


def close(found: Tensor, wanted: Tensor, rtol: float = 1e-10) -> None:
    """Raise where two tensors differ by more than rtol of the size of the second, as a whole."""
    assert found.shape == wanted.shape
    assert float((found - wanted).norm()) <= rtol * float(wanted.norm()), float((found - wanted).norm())


def make(
    kind: str = "mlp", n: int = 12, dtype: torch.dtype = torch.float64
) -> tuple[nn.Sequential, Tensor, Tensor]:
    """A small model in eval mode with inputs and targets of 3 classes."""
    torch.manual_seed(0)
    if kind == "cnn":
        layers = [nn.Conv2d(1, 2, 3), nn.Tanh(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(8, 3)]
        X = torch.randn(n, 1, 6, 6, dtype=dtype)
    else:
        layers = [nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, 3)]
        X = torch.randn(n, 4, dtype=dtype)
    model = nn.Sequential(*layers).to(dtype)
    if kind == "mlp":
        model(X)  # running statistics that are not the defaults
    return model.eval(), X, torch.arange(n) % 3


def rows_of(problem: Problem, k: int = 3) -> Tensor:
    """k random flat vectors."""
    return torch.randn(k, problem.p, dtype=problem.dtype, generator=torch.Generator().manual_seed(1))


def all_products(problem: Problem, rows: Tensor) -> Tensor:
    """S . g_i of all training examples, put together."""
    return torch.cat([values for _, values in problem.products(rows)], 1)


def dense_hessian(
    problem: Problem, model: Any, X: Tensor, y: Tensor, weights: Tensor | None = None
) -> Tensor:
    """The Hessian of R by torch.autograd.functional, parameter by parameter of theta."""
    w = torch.ones(len(X), dtype=problem.dtype) if weights is None else weights

    def value(theta: Tensor) -> Tensor:
        outputs = torch.func.functional_call(model, problem.layout.unpack(theta), (X,))
        return (F.cross_entropy(outputs, y, reduction="none") * w).mean() + (problem.l2 * theta**2).sum() / 2

    return torch.autograd.functional.hessian(value, problem.theta)

"""Convolutions that are differentiated twice: as torch differentiates its own, in every setting."""

import copy
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tests.support.compare import assert_close_per_row
from upweight import Hessian, Problem
from upweight.network.convolutions import fast_convolutions

SHAPES = {nn.Conv1d: (12,), nn.Conv2d: (9, 8), nn.Conv3d: (7, 7, 7)}
SETTINGS: list[dict[str, Any]] = [
    {},
    {"stride": 2, "padding": 1},
    {"dilation": 2, "bias": False},
    {"groups": 2, "padding": 1},
    {"padding": "same"},
    {"padding": 1, "padding_mode": "circular"},
]


def network(kind: Any, settings: dict[str, Any]) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        kind(2, 4, 3, **settings),
        nn.Tanh(),
        kind(4, 2, 3 if "padding" in settings else 2, **{**settings, "stride": 1}),
        nn.Tanh(),
        nn.Flatten(2),
        nn.AdaptiveAvgPool1d(1),
        nn.Flatten(),
        nn.Linear(2, 3),
    ).double()


def problem_of(model: nn.Module, shape: tuple[int, ...], **options: Any) -> Problem:
    generator = torch.Generator().manual_seed(1)
    X = torch.randn(12, 2, *shape, dtype=torch.float64, generator=generator)
    return Problem(model, F.cross_entropy, (X, torch.arange(12) % 3), batch_size=5, **options)


def assert_torch_agrees(problem: Problem) -> None:
    """Three products with the Hessian, against double backward through torch's own convolutions."""
    batch = problem.train_batch(torch.arange(problem.n))
    rows = torch.randn(3, problem.p, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    at = problem.theta.clone().requires_grad_()
    first = torch.autograd.grad(problem.evaluation.losses(at, batch).mean(), at, create_graph=True)[0]
    wanted = torch.stack([torch.autograd.grad(first, at, row, retain_graph=True)[0] for row in rows])
    assert_close_per_row(Hessian(problem).operator()(rows), wanted, 1e-10)


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@pytest.mark.parametrize("kind", SHAPES)
def test_hessian_products_are_those_of_torch(kind: Any, settings: dict[str, Any]):
    problem = problem_of(network(kind, settings), SHAPES[kind])
    assert problem.evaluation.strategy == "batch"
    assert_torch_agrees(problem)


@pytest.mark.parametrize("params", ["0.*", ["0.bias", "2.weight"], "7.*"])
def test_so_are_those_in_some_parameters(params: Any):
    assert_torch_agrees(problem_of(network(nn.Conv2d, {}), SHAPES[nn.Conv2d], params=params))


class Own(nn.Conv2d):
    """A convolution with a forward pass of its own."""

    def _conv_forward(self, input: Any, weight: Any, bias: Any) -> Any:
        return 2 * super()._conv_forward(input, weight, bias)


def test_layers_are_left_as_they_were_and_strange_ones_alone():
    model = nn.Sequential(nn.Conv2d(1, 2, 2), Own(2, 2, 2), nn.ConvTranspose2d(2, 1, 2))
    before = [copy.copy(module.__dict__) for module in model]
    x = torch.randn(3, 1, 5, 5)
    wanted = model(x), model(x[0])
    with fast_convolutions(model):
        assert "_conv_forward" in model[0].__dict__
        assert "_conv_forward" not in model[1].__dict__
        assert torch.equal(model(x), wanted[0])
        assert torch.equal(model(x[0]), wanted[1])
        assert "Convolution" in type(model[0](x).grad_fn).__name__
    for module, then in zip(model, before, strict=True):
        assert module.__dict__.keys() == then.keys()

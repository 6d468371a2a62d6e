"""Which weights the layers of a model explain."""

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tests.support.compare import assert_close_per_row
from tests.support.networks import problem_of
from upweight import Problem
from upweight.network.example_gradients import example_gradients

FOUND: dict[str, Any] = {
    "mlp": [("0.weight", "0.bias"), ("2.weight",)],
    "twice": [("layer.weight", "layer.bias"), ("head.weight", "head.bias")],
    "loose": [("head.weight", "head.bias")],  # the other weight is used by itself as well
    "patch": [("body.0.weight", "body.0.bias"), *[("body.2.weight",)] * 2, ("body.4.weight", "body.4.bias")],
    "tied": [("embedding.weight",), ("mix.weight", "mix.bias")],
    "words": [("embedding.weight",), ("mix.weight", "mix.bias"), ("head.weight",)],
    "branches": [(f"{name}.weight", f"{name}.bias") for name in ("left", "right", "head")],
}


@pytest.mark.parametrize("name", FOUND)
def test_weights_of_every_kind_of_model(name):
    layered = problem_of(name).layers.layered
    assert [weight.names for weight in layered.weights] == FOUND[name]


def test_norms_hold_what_layers_do_not():
    layered = problem_of("words").layers.layered
    (norm,) = layered.rest.norms
    assert norm.index.tolist() == layered.rest.index.tolist()
    assert len(layered.rest.loose) == 0


def test_parameters_in_question_alone_are_looked_at():
    layered = problem_of("mlp", params="0.bias").layers.layered
    assert layered.weights == ()
    assert layered.rest.loose.tolist() == [0, 1, 2, 3, 4]


def shared(same: bool) -> nn.Sequential:
    """Two layers with one intercept (and one weight)."""
    model = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4)).double()
    model[2].bias = model[0].bias
    if same:
        model[2].weight = model[0].weight
    return model


@pytest.mark.parametrize("same", [False, True])
def test_an_intercept_of_two_layers_belongs_to_none_but_of_a_weight_that_both_share(same):
    torch.manual_seed(0)
    train = torch.randn(9, 4).double(), torch.randint(0, 4, (9,))
    problem = Problem(shared(same), F.cross_entropy, train)
    names = [weight.names for weight in problem.layers.layered.weights]
    assert names == ([("0.weight", "0.bias")] if same else [])
    wanted = example_gradients(problem.evaluation, problem.theta, train)
    assert_close_per_row(problem.test_gradients(train), wanted, 1e-12)


class Skewed(nn.Module):
    """A square weight that a dense layer uses as it is and another module turned over."""

    def __init__(self):
        super().__init__()
        self.straight, self.turned = nn.Linear(4, 4, bias=False), nn.Conv1d(4, 4, 1, bias=False)
        self.turned.weight = nn.Parameter(self.straight.weight.detach()[:, :, None].clone())

    def forward(self, x):
        return self.turned(self.straight(x)[:, :, None])[:, :, 0]


def test_weights_of_two_kinds_stand_beside_each_other():
    torch.manual_seed(0)
    train = torch.randn(9, 4).double(), torch.randint(0, 4, (9,))
    problem = Problem(Skewed().double(), F.cross_entropy, train)
    assert [weight.names for weight in problem.layers.layered.weights] == [
        ("straight.weight",),
        ("turned.weight",),
    ]
    wanted = example_gradients(problem.evaluation, problem.theta, train)
    assert_close_per_row(problem.test_gradients(train), wanted, 1e-12)

"""Gradients layer by layer against differentiation example by example, on networks of every kind."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tests.support.compare import assert_close_per_row
from tests.support.networks import MODELS, problem_of
from upweight import Problem, measures
from upweight.linalg.outer_products import Outer, joined
from upweight.network.evaluation import example_gradients
from upweight.network.layers.gradients import Layered

every_model = pytest.mark.parametrize("name", MODELS)
# Of the others the layers do not see examples one by one.
TOGETHER = {"mlp", "twice", "sequence", "patch", "signal", "words", "tied", "loose"}


def naive(problem: Problem, batch, measure=None) -> torch.Tensor:
    return example_gradients(problem.evaluation, problem.theta, batch, measure)


def whole(problem: Problem):
    return problem.train_batch(torch.arange(problem.n))


@every_model
def test_which_models_are_taken_layer_by_layer(name):
    problem = problem_of(name)
    assert problem.layered.together == (name in TOGETHER)
    # What is outside the layers of "loose" is too much of it to be worth it.
    assert (problem.by_layers is not None) == (name in TOGETHER - {"loose"})


@every_model
@pytest.mark.parametrize("measure", [None, measures.margin])
def test_gradients(name, measure):
    problem = problem_of(name)
    assert_close_per_row(
        problem.test_gradients(whole(problem), measure), naive(problem, whole(problem), measure), 1e-12
    )


@every_model
@pytest.mark.parametrize("k", [1, 40])
def test_products(name, k):
    problem = problem_of(name)
    rows = torch.randn(k, problem.p).double()
    found = torch.cat([values for _, values in problem.products(rows)], dim=1)
    bare = naive(problem, whole(problem)) * problem.weights[:, None] + problem.folded_penalty
    assert_close_per_row(found, rows @ bare.T, 1e-11)


@pytest.mark.parametrize("name", sorted(TOGETHER))
def test_jacobians_and_sums_of_outer_products(name):
    problem = problem_of(name)
    layered = problem.layered
    batch = whole(problem)
    V = torch.randn(problem.n, 4, problem.c).double()
    wanted = torch.stack(
        [
            naive(problem, (batch[0], V[:, j]), lambda o, v: (o.flatten() * v.flatten()).sum())
            for j in range(4)
        ],
        1,
    )
    assert_close_per_row(layered.jacobians(batch, V).flatten(0, 1), wanted.flatten(0, 1), 1e-11)
    outer = Outer(
        [
            (
                torch.randn(2, 3, layer.rows).double(),
                torch.randn(2, 3, layer.columns + layer.intercept).double(),
            )
            for layer in layered.layers
        ],
        torch.randn(3, len(layered.rest)).double(),
    )
    flat = torch.zeros(3, problem.p).double()
    flat[:, layered.rest] = outer.rest
    for layer, (U, W) in zip(layered.layers, outer.layers, strict=True):
        flat[:, layer.index] = layer.flat(torch.einsum("Rkr,Rks->krs", U, W))
    gradients = naive(problem, batch)
    assert_close_per_row(outer.products(layered.pairs(batch)), flat @ gradients.T, 1e-11)
    assert_close_per_row(layered.dot(outer, gradients[0])[:, None], (flat @ gradients[0])[:, None], 1e-11)
    parts = [layered.pairs(tuple(side[rows] for side in batch)) for rows in torch.arange(problem.n).split(7)]
    assert_close_per_row(outer.products(joined(parts)), flat @ gradients.T, 1e-11)


class Borrowed(nn.Module):
    """A weight that is also used by itself, but only for inputs that are rare."""

    def __init__(self):
        super().__init__()
        self.layer, self.head = nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, x):
        rare = torch.relu(x[:, :1] - 50)
        return self.head(torch.tanh(self.layer(x)) + rare * (x @ self.layer.weight.T))


def test_a_weight_that_is_secretly_used_elsewhere_is_noticed_on_more_examples():
    torch.manual_seed(0)
    X, y = torch.randn(300, 4).double(), torch.randint(0, 3, (300,))
    X[5, 0] = 60.0
    problem = Problem(Borrowed().double(), F.cross_entropy, (X, y))
    assert not bool((problem.trial[0] > 50).any())
    assert len(problem.layered.rest) == 0  # a few examples do not show it
    assert problem.by_layers is None
    assert_close_per_row(problem.test_gradients((X, y)), naive(problem, (X, y)), 1e-12)


def test_an_intercept_of_two_layers_belongs_to_none():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4)).double()
    model[2].bias = model[0].bias
    problem = Problem(model, F.cross_entropy, (torch.randn(9, 4).double(), torch.randint(0, 4, (9,))))
    layered = Layered.find(problem.evaluation, problem.theta, problem.trial)
    assert layered.layers == []
    assert_close_per_row(problem.test_gradients(whole(problem)), naive(problem, whole(problem)), 1e-12)


def test_precision_of_single_precision_models():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(36, 3))
    X, y = torch.randn(30, 1, 5, 5), torch.randint(0, 3, (30,))
    problem, wide = (
        Problem(model, F.cross_entropy, (X, y)),
        Problem(model.double(), F.cross_entropy, (X.double(), y)),
    )
    assert problem.by_layers is not None
    assert_close_per_row(problem.test_gradients((X, y)), naive(wide, (X.double(), y)), 1e-5)


@every_model
def test_a_measure_that_does_not_depend_on_the_model_has_no_gradient(name):
    problem = problem_of(name)
    found = problem.test_gradients(whole(problem), lambda outputs, targets: torch.zeros(()).double())
    assert found.shape == (problem.n, problem.p)
    assert not bool(found.any())

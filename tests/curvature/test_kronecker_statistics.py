"""What EKFAC gathers, against sums that are written out: of networks and of linear models by one piece of code."""

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tests.support.compare import assert_close_per_row
from tests.support.networks import MODELS, problem_of
from tests.support.small_models import close
from upweight import LinearProblem, Problem, Softmax, Squared
from upweight.capabilities import SidesPlan
from upweight.curvature.kronecker_statistics import Recipe, coverage, gather, restore
from upweight.objective import Objective
from upweight.types import Tensor


def recipe_of(problem: Objective, **settings: Any) -> Recipe:
    plain = {"rows": None, "leading": 0, "samples": None, "seed": 0, "precision": problem.dtype}
    return Recipe(**{**plain, **settings})


def softmax(n: int = 40, dtype: Any = torch.float64, **settings: Any) -> LinearProblem:
    generator = torch.Generator().manual_seed(0)
    X = torch.randn(n, 5, generator=generator, dtype=torch.float64).to(dtype)
    coef, bias = torch.randn(3, 5, generator=generator).double(), torch.randn(3, generator=generator).double()
    settings = {"l2": 0.1, "weights": torch.rand(n, generator=generator).double() + 0.5, **settings}
    return LinearProblem(X, torch.arange(n) % 3, coef, bias, loss=Softmax(), **settings)


def gradients_of_cotangents(problem: Objective, samples: int | None = None) -> list[tuple[Tensor, Tensor]]:
    """J (b, p) of every cotangent, as the interface gives it, and the examples' weights."""
    layers, found = problem.layers, []
    assert layers is not None
    for cotangents, w in layers.pulled_back(SidesPlan(samples, 0, problem.dtype), "pass"):
        for sides in cotangents:
            J = torch.zeros(len(w), problem.p, dtype=torch.float64)
            J[:, layers.layout.rest] = sides.rest()
            for i, matrix in enumerate(layers.layout.matrices):
                J[:, matrix.index] = matrix.flat(sides.left(i).mT @ sides.right(i))
            found.append((J, w))
    return found


every_problem = pytest.mark.parametrize("name", ["softmax", *MODELS])


def problem_named(name: str) -> Objective:
    return softmax() if name == "softmax" else problem_of(name)


@every_problem
@pytest.mark.parametrize("samples", [None, 3])
def test_eigenvalues_are_squares_of_gradients_in_the_bases(name, samples):
    problem = problem_named(name)
    gathered = gather(problem, recipe_of(problem, leading=2, samples=samples))
    parts = gradients_of_cotangents(problem, samples)
    assert gathered.n == problem.n
    for block in gathered.blocks:
        values, r = torch.zeros_like(block.values), block.leading
        whole = torch.zeros(block.matrix.rows * r, block.matrix.rows * r, dtype=torch.float64)
        for J, w in parts:
            G = block.matrix.stack(J)
            values += (w[:, None, None] * (block.left.T @ G @ block.right).square()).sum(0)
            first = (G @ block.right[:, :r]).flatten(1)
            whole += first.T @ (w[:, None] * first)
        close(block.values, values)
        close(block.whole.reshape(whole.shape), whole)
    rest = torch.zeros_like(gathered.rest.total)
    for J, w in parts:
        P = J[:, gathered.rest.index]
        rest += P.T @ (w[:, None] * P)
    close(gathered.rest.total, rest)


@every_problem
def test_bases_are_orthogonal_and_the_right_one_begins_with_the_largest_variance(name):
    problem = problem_named(name)
    for block in gather(problem, recipe_of(problem)).blocks:
        for Q, moments in ((block.left, block.outputs), (block.right, block.inputs)):
            assert_close_per_row(Q.T @ Q, torch.eye(len(Q)).double(), 1e-12)
            D = Q.T @ moments @ Q
            assert float((D - torch.diag(D.diagonal())).norm()) < 1e-12 * float(D.norm())
        variances = (block.right.T @ block.inputs @ block.right).diagonal()
        assert bool((variances.diff() <= 1e-12 * variances.max()).all())


@pytest.mark.parametrize("name", ["softmax", "mlp", "signal"])
def test_what_is_kept_is_all_that_is_needed(name):
    problem = problem_named(name)
    recipe = recipe_of(problem, leading=2, rows=7)
    gathered = gather(problem, recipe)
    again = restore(problem, recipe, gathered.tensors(), gathered.n)
    assert again.n == 7
    for (key, wanted), found in zip(gathered.tensors().items(), again.tensors().values(), strict=True):
        assert torch.equal(found, wanted), key


def test_a_sample_is_that_of_the_rows_in_it():
    problem = softmax()
    index = torch.linspace(0, 39, 9, dtype=torch.float64).long()
    some = gather(problem, recipe_of(problem, rows=9))
    same = gather(problem.subset(index), recipe_of(problem))
    assert torch.equal(some.blocks[0].values, same.blocks[0].values)


def test_quick_sums_are_in_single_precision():
    problem = softmax(dtype=torch.float32)
    quick, exact = (
        gather(problem, recipe_of(problem, precision=dtype)).blocks[0]
        for dtype in (torch.float32, torch.float64)
    )
    assert (quick.values.dtype, exact.values.dtype) == (torch.float32, torch.float64)
    difference = (quick.values.sum().double() - exact.values.sum()).abs()
    assert float(difference) < 1e-4 * float(exact.values.sum())


def test_coverage_names_every_parameter(monkeypatch):
    assert coverage(softmax()) == {"weight": "Kronecker", "bias": "Kronecker"}
    assert coverage(problem_of("signal"))["scale"] == "dense"
    monkeypatch.setattr("upweight.curvature.kronecker_statistics.DENSE_REST", 0)
    assert coverage(problem_of("signal"))["scale"] == "diagonal"
    gathered = gather(problem_of("signal"), recipe_of(problem_of("signal")))
    assert gathered.rest.total.ndim == 1


def test_one_layer_is_one_layer_however_it_is_given():
    """A linear model in closed form and as a network: one algorithm, the same numbers."""
    linear = softmax(l2=0.0)
    model = nn.Linear(5, 3).double()
    theta = linear.params
    with torch.no_grad():
        model.weight.copy_(theta["weight"])
        model.bias.copy_(theta["bias"])
    X, y = linear.design.block(slice(None), torch.float64).dense(), torch.arange(40) % 3
    network = Problem(model, F.cross_entropy, (X, y), weights=linear.weights)
    found, wanted = (
        gather(problem, recipe_of(problem, leading=2)).blocks[0] for problem in (linear, network)
    )
    close(found.values, wanted.values, 1e-12)
    close(found.outputs, wanted.outputs, 1e-12)
    close(found.inputs, wanted.inputs, 1e-12)


def test_a_problem_without_layers_is_refused(monkeypatch):
    problem = softmax()
    monkeypatch.setattr(LinearProblem, "layers", None)
    for ask in (lambda: coverage(problem), lambda: gather(problem, recipe_of(problem))):
        with pytest.raises(TypeError, match="a LinearProblem has none: use another curvature"):
            ask()


def test_a_loss_that_is_not_convex_is_refused():
    problem = problem_of("mlp", loss=lambda out, y: -F.cross_entropy(out, y))
    with pytest.raises(ValueError, match="not convex in the model's outputs"):
        gather(problem, recipe_of(problem))
    squared = LinearProblem(torch.eye(3), torch.ones(3), torch.zeros(3), loss=Squared())
    assert gather(squared, recipe_of(squared)).blocks[0].values.shape == (1, 3)

"""Engines of products that torch has not, or has wrong, give way to others; what is left is refused by name."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.support.small_models import close, make
from tests.support.treacherous import twins
from upweight import DerivativeError, DerivativeWarning, GaussNewton, Hessian, Influence, Problem
from upweight.network.engines import gauss_newton_gap, hessian_gap


def problem_of(kind, dtype=torch.float64):
    model, twin, data = twins(kind, dtype=dtype)
    return Problem(model, F.cross_entropy, data, l2=0.01), Problem(twin, F.cross_entropy, data, l2=0.01), data


@pytest.mark.parametrize("mode", ["double", "forward"])
@pytest.mark.parametrize("kind", ["mlp", "cnn"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_right_engines_have_no_gap(kind, mode, dtype):
    model, X, y = make(kind, dtype=dtype)
    problem = Problem(model, F.cross_entropy, (X, y))
    for gap in (hessian_gap, gauss_newton_gap):
        assert gap(problem.evaluation, problem.theta, (X, y), mode) == 0


def test_wrong_engines_have_one():
    problem, _, data = problem_of("weight norm")
    assert hessian_gap(problem.evaluation, problem.theta, data, "double") > 1e-3
    problem, _, data = problem_of("scatter")
    assert gauss_newton_gap(problem.evaluation, problem.theta, data, "forward") == pytest.approx(1)
    assert gauss_newton_gap(problem.evaluation, problem.theta, data, "double") == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_differences_of_gradients_stand_in_for_a_second_derivative(dtype):
    problem, twin, _ = problem_of("weight norm", dtype)
    with pytest.warns(DerivativeWarning, match="products with Hessian are slow, by differences of gradients"):
        found = Hessian(problem).matrix()
    close(found, Hessian(twin).matrix(), 1e-3 if dtype == torch.float32 else 1e-6)


def test_a_layer_without_a_second_derivative_is_named():
    problem, _, _ = problem_of("no second derivative")
    with pytest.warns(DerivativeWarning, match=r"layer 'gate' \(Hardsigmoid\)"):
        Hessian(problem).matrix()


class Single(nn.Module):
    """A layer that computes in float32 whatever it is given."""

    def forward(self, x):
        return F.hardsigmoid(x.float()).to(x.dtype)


def test_what_has_neither_is_refused_and_the_default_is_the_gauss_newton_matrix():
    """Differences need float64; here a buffer that is no buffer keeps the model from it."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 4), Single(), nn.Linear(4, 3))
    held = torch.ones(4)
    model[0].register_forward_hook(lambda module, args, output: output @ torch.diag(held))
    X, y = torch.randn(20, 5), torch.arange(20) % 3
    problem = Problem(model, F.cross_entropy, (X, y), l2=0.01)
    with pytest.raises(DerivativeError, match=r"no right second derivative of the model.*use GaussNewton"):
        Hessian(problem).matrix()
    influence = Influence(problem)
    assert isinstance(influence.settings.curvature, GaussNewton)
    assert "no right second derivative" in str(influence.settings)
    assert influence.on_loss((X[:2], y[:2])).values.isfinite().all()

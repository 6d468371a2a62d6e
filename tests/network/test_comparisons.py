"""Comparisons tell wrong derivatives from kinks, rounding and chance, and pseudo-gradients from gradients."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.support.small_models import make
from upweight import DerivativeWarning, GaussNewton, Influence, Problem
from upweight.network.comparisons import Quotient, central, gap_to_differences, gap_to_loss, within_rounding
from upweight.network.shortcuts import wrong

every_precision = pytest.mark.parametrize("dtype", [torch.float32, torch.float64])


class Straight(nn.Module):
    """A straight-through quantiser."""

    def forward(self, x):
        return x + (x.mul(4).round().div(4) - x).detach()


class Held(nn.Module):
    """A norm that is taken out of the graph, as peft's DoRA does."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(5, 4))

    def forward(self, x):
        return x @ (self.weight / self.weight.norm(dim=1, keepdim=True).detach()).T


PSEUDO = {
    "straight-through": lambda: nn.Sequential(nn.Linear(4, 5), Straight(), nn.Linear(5, 3)),
    "detached": lambda: nn.Sequential(Held(), nn.Tanh(), nn.Linear(5, 3)),
}
TRUE = {
    "kinks": lambda: nn.Sequential(nn.Linear(4, 50), nn.ReLU(), nn.Linear(50, 3)),
    "large": lambda: nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)),
    "norm": lambda: nn.Sequential(nn.Linear(4, 6), nn.LayerNorm(6), nn.GELU(), nn.Linear(6, 3)),
    "dead": lambda: nn.Sequential(nn.Linear(4, 5), nn.Threshold(1e9, 0.0), nn.Linear(5, 3)),
}


def problem_of(model, dtype):
    torch.manual_seed(0)
    X, y = torch.randn(12, 4, dtype=dtype), torch.arange(12) % 3
    return Problem(model.to(dtype), F.cross_entropy, (X, y), l2=0.01), (X, y)


@every_precision
@pytest.mark.parametrize("kind", PSEUDO)
def test_gradients_that_are_not_the_losses_are_told_with_every_answer(kind, dtype):
    torch.manual_seed(0)
    problem, (X, y) = problem_of(PSEUDO[kind](), dtype)
    influence = Influence(problem, curvature=GaussNewton(problem, 0.1))
    with pytest.warns(DerivativeWarning, match="not the derivatives of its loss"):
        scores = influence.on_loss((X[:2], y[:2]))
    assert "not those of minimising the loss" in scores.verdict
    assert "not the derivatives of its loss" in str(influence.settings)
    assert "not the derivatives of its loss" in influence.on_self().verdict


@every_precision
@pytest.mark.parametrize("kind", TRUE)
@pytest.mark.parametrize("size", [1e-2, 1.0, 10.0])
def test_true_gradients_raise_no_alarm(kind, dtype, size):
    torch.manual_seed(0)
    model = TRUE[kind]()
    with torch.no_grad():
        for value in model.parameters():
            value.mul_(size)
    problem, test = problem_of(model, dtype)
    Influence(problem, curvature=GaussNewton(problem, 0.1)).on_loss(test)  # warnings are errors
    assert (problem.facts.caution, problem.remarks) == ("", ())


def test_words_that_stand_for_padding_have_no_gradient_and_that_is_right():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(6, 3, padding_idx=0), nn.Flatten(), nn.Linear(9, 3)).double()
    with torch.no_grad():
        model[0].weight[0] = 1.0  # type: ignore[operator]
    words, y = torch.randint(0, 6, (12, 3)), torch.arange(12) % 3
    problem = Problem(model, F.cross_entropy, (words, y), l2=0.01)
    assert gap_to_loss(problem.evaluation, problem.theta, (words, y)) == 0


def test_gradients_that_depend_on_the_frequency_of_words_are_told():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(6, 3, scale_grad_by_freq=True), nn.Flatten(), nn.Linear(9, 3)).double()
    words, y = torch.randint(0, 3, (12, 3)), torch.arange(12) % 3
    with pytest.warns(DerivativeWarning, match="model and loss are differentiated example by example"):
        problem = Problem(model, F.cross_entropy, (words, y), l2=0.01)
    with pytest.warns(DerivativeWarning, match="not the derivatives of its loss"):
        assert problem.facts.caution


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_differences_find_a_wrong_derivative_and_believe_a_right_one(dtype):
    at, along = torch.linspace(-2, 2, 30, dtype=dtype), torch.ones(30, dtype=dtype)
    right = at.cos() * along
    found = central(torch.sin, at, along)
    assert gap_to_differences(right, found) == 0
    assert gap_to_differences(1.2 * right, found) == pytest.approx(1 / 6, abs=0.02)
    assert gap_to_differences(torch.zeros_like(right), found) == pytest.approx(1.0)


def test_differences_that_do_not_settle_say_nothing():
    noise = torch.Generator().manual_seed(0)
    claimed = torch.ones(5).double()
    assert (
        gap_to_differences(
            claimed, lambda step: Quotient(torch.randn(5, generator=noise).double() / step, 0.0)
        )
        == 0
    )


def test_differences_that_are_rounding_say_nothing():
    at = torch.linspace(1, 2, 30).double()
    claimed = torch.full_like(at, 1e-30)
    assert gap_to_differences(claimed, central(lambda x: 1 + 1e-30 * x, at, torch.ones_like(at))) == 0


def test_nothing_is_no_difference():
    zero = torch.zeros(3)
    assert within_rounding(zero, zero) == 0
    assert within_rounding(zero, torch.ones(3)) == pytest.approx(1)
    assert within_rounding(torch.full((3,), torch.nan), torch.ones(3)) == float("inf")


def test_a_look_costs_a_problem_once():
    model, X, y = make()
    problem = Problem(model, F.cross_entropy, (X, y))
    changed = problem.changed(l2=0.1)
    assert changed.trial is problem.trial
    assert changed.evaluation.shortcuts is problem.evaluation.shortcuts


@pytest.mark.parametrize("where", ["model", "loss"])
@pytest.mark.parametrize("size", [1e-2, 1.0, 10.0])
def test_rounding_inside_of_model_or_loss_raises_no_alarm(where, size):
    class Coarse(nn.Module):
        def forward(self, x):
            return x.bfloat16().float()

    torch.manual_seed(0)
    inner = TRUE["norm"]()
    with torch.no_grad():
        for value in inner.parameters():
            value.mul_(size)
    X, y = torch.randn(12, 4), torch.arange(12) % 3

    def coarse(o, y):
        return F.cross_entropy(o.bfloat16(), y).float()

    model = nn.Sequential(Coarse(), inner) if where == "model" else inner
    problem = Problem(model, coarse if where == "loss" else F.cross_entropy, (X, y), l2=0.01)
    Influence(problem, curvature=GaussNewton(problem, 0.1)).on_loss((X, y))  # warnings are errors
    assert (problem.facts.caution, problem.remarks) == ("", ())


def test_what_is_wrong_by_little_is_said_with_a_number():
    assert "wrong, by 0.4% of" in wrong(0.004)

"""Losses of generalised linear models against their deviances written out, and derivatives against autograd."""

import itertools

import pytest
import torch
from scipy import stats

from upweight import LinearProblem
from upweight.losses import GeneralisedLinear, Parts, Proportion, ReferenceSoftmax, Squared, WithOffset
from upweight.losses.generalised import CONVEX, FAMILIES, POWERS
from upweight.losses.proportions import CHANCES

LINKS = ["log", "power", *POWERS]
PAIRS = [(family, link) for family, link in itertools.product(FAMILIES, LINKS)] + [
    ("negative binomial", "canonical")
]
ETA = torch.tensor([0.3, 0.7, 1.1, 1.9, 2.4]).double()[:, None]
Y = torch.tensor([0.5, 2.0, 1.0, 3.0, 0.2]).double()[:, None]
DENSITIES = {
    "poisson": lambda y, mu: stats.poisson.logpmf(y, mu),
    "negative binomial": lambda y, mu: stats.nbinom.logpmf(y, 2.0, 2.0 / (2.0 + mu)),  # alpha = 1/2
    "gaussian": lambda y, mu: stats.norm.logpdf(y, mu),
    "gamma": lambda y, mu: stats.gamma.logpdf(y, 1.0, scale=mu),
    "inverse gaussian": lambda y, mu: stats.invgauss.logpdf(y, mu),
}


def derivatives(loss, eta, y):
    eta = eta.clone().requires_grad_()
    first = torch.autograd.grad(loss.value(eta, y).sum(), eta, create_graph=True)[0]
    return first.detach(), torch.autograd.grad(first.sum(), eta)[0]


@pytest.mark.parametrize(("family", "link"), PAIRS)
def test_derivatives_are_those_of_the_value(family: str, link: str):
    loss = GeneralisedLinear(family, link, shape=1.5 if family == "tweedie" else 0.5, power=0.4)
    eta = -ETA if link == "canonical" else ETA
    first, second = derivatives(loss, eta, Y)
    assert torch.allclose(loss.residual(eta, Y), first, rtol=1e-9, atol=1e-12)
    assert torch.allclose(loss.curvature(eta, Y)[0], second, rtol=1e-9, atol=1e-12)
    at_mean = loss.mean(eta).value
    assert torch.allclose(loss.expected_curvature(eta, Y), loss.curvature(eta, at_mean)[0], rtol=1e-9)
    assert float(loss.value(eta, at_mean).abs().max()) < 1e-12
    if (family, link) in CONVEX:
        assert bool((second >= 0).all())


@pytest.mark.parametrize("family", DENSITIES)
def test_values_are_log_likelihoods_less_those_of_the_best_mean(family: str):
    loss, y = GeneralisedLinear(family, "log", 0.5), torch.tensor([[1.0], [4.0], [2.0]]).double()
    mu = ETA[:3].exp()
    density = DENSITIES[family]
    expected = torch.as_tensor(density(y, y) - density(y, mu))[:, 0]
    assert torch.allclose(loss.value(ETA[:3], y), expected, rtol=1e-8)


@pytest.mark.parametrize("link", CHANCES)
def test_proportions_have_the_derivatives_of_their_value(link: str):
    loss, y = Proportion(link), torch.tensor([0.0, 0.3, 0.5, 0.8, 1.0]).double()[:, None]
    eta = {"log": -ETA, "identity": ETA / 3}.get(link, ETA - 1)
    first, second = derivatives(loss, eta, y)
    assert torch.allclose(loss.residual(eta, y), first, rtol=1e-8, atol=1e-12)
    assert torch.allclose(loss.curvature(eta, y)[0], second, rtol=1e-7, atol=1e-10)
    chance = CHANCES[link](eta).log_mean.exp()
    assert torch.allclose(loss.expected_curvature(eta, y), loss.curvature(eta, chance)[0], rtol=1e-8)


@pytest.mark.parametrize("link", ["logit", "probit", "cloglog", "loglog", "cauchy"])
def test_proportions_keep_their_digits_far_out(link: str):
    loss, eta = Proportion(link), torch.tensor([[-30.0], [-8.0], [5.0]]).double()
    for y in (0.0, 1.0):
        targets = torch.full((3, 1), y).double()
        found = [loss.value(eta, targets), loss.residual(eta, targets), loss.curvature(eta, targets)[0]]
        assert all(bool(part.isfinite().all()) for part in found)


def test_a_reference_class_is_softmax_with_its_output_at_zero():
    loss, eta = ReferenceSoftmax(), torch.randn(6, 2, generator=torch.Generator().manual_seed(0)).double()
    y = torch.tensor([0, 1, 2, 2, 1, 0])
    first, _ = derivatives(loss, eta, y)
    assert torch.allclose(loss.residual(eta, y), first)
    a, u = loss.curvature(eta, y)
    assert u is not None
    W = torch.diag_embed(a) - u[:, :, None] * u[:, None]
    for i in range(6):
        own = torch.autograd.functional.hessian(lambda e, i=i: loss.value(e[None], y[[i]])[0], eta[i])
        assert torch.allclose(W[i], own)
    parts = Parts(a[:, 0], a, u, a)
    assert torch.allclose(parts.root() @ parts.root().mT, W)
    S, signs = parts.signed_root()
    assert torch.allclose(S * signs[:, None] @ S.mT, W)


def test_an_offset_is_added_to_the_output():
    loss, shift = WithOffset(GeneralisedLinear("gamma", "log")), torch.full((5, 1), 0.7).double()
    targets = torch.cat([Y, shift], 1)
    inner = loss.loss
    assert torch.allclose(loss.value(ETA, targets), inner.value(ETA + shift, Y))
    assert torch.allclose(loss.residual(ETA, targets), inner.residual(ETA + shift, Y))
    assert torch.allclose(loss.curvature(ETA, targets)[0], inner.curvature(ETA + shift, Y)[0])
    assert WithOffset(Squared()).convex


def test_bad_targets_and_names_are_refused():
    X = torch.ones(3, 1)
    for loss, y, said in (
        (GeneralisedLinear("gamma", "log"), [1.0, 0.0, 2.0], "targets must be > 0, got 0 in example 1"),
        (GeneralisedLinear("poisson", "log"), [1.0, 2.0, -1.0], "targets must be >= 0, got -1 in example 2"),
        (Proportion("probit"), [0.5, 2.0, 0.0], r"targets must lie in 0..1, got \[2.0\] in example 1"),
        (WithOffset(Squared()), [1.0, 2.0, 3.0], r"targets must be \(n, 2\)"),
        (ReferenceSoftmax(), [0, 1, 5], r"targets must be classes 0..1"),
    ):
        with pytest.raises(ValueError, match=said):
            LinearProblem(X, y, [0.1], loss=loss)
    with pytest.raises(ValueError, match="is not known"):
        GeneralisedLinear("beta", "log")
    with pytest.raises(ValueError, match="link must be one of"):
        Proportion("square")

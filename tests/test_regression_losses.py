"""Losses of regressions and of margins against automatic differentiation, and scikit-learn's own where it has them."""

import numpy as np
import pytest
import torch
from sklearn.metrics import mean_pinball_loss, mean_tweedie_deviance

from tests.support.cases import draw
from tests.support.compare import assert_close_per_row
from upweight import (
    Huber,
    ModifiedHuber,
    SmoothEpsilonInsensitive,
    SmoothPinball,
    SquaredEpsilonInsensitive,
    SquaredMargin,
    Tweedie,
)
from upweight.losses import LinearLoss

B = 40
RESIDUAL = [
    Huber(0.7),
    SquaredEpsilonInsensitive(0.3),
    SmoothEpsilonInsensitive(0.3, 0.2),
    SmoothPinball(0.8, 0.2),
]
EVERY = [*RESIDUAL, Tweedie(1), Tweedie(1.5), Tweedie(2), ModifiedHuber(), SquaredMargin()]


def targets(loss: LinearLoss, c: int) -> torch.Tensor:
    if loss.classifies:
        return (draw(B, seed=3) > 0).long() if c == 1 else torch.arange(B) % c
    y = draw(B, c, seed=3)
    return y.exp() if isinstance(loss, Tweedie) else y


@pytest.mark.parametrize("loss", EVERY, ids=repr)
@pytest.mark.parametrize("c", [1, 3])
def test_derivatives_are_those_of_the_value(loss: LinearLoss, c: int):
    eta, y = draw(B, c, seed=1), loss.encode(targets(loss, c), c)
    leaf = eta.clone().requires_grad_()
    values = loss.value(leaf, y)
    assert bool((values >= 0).all()) or isinstance(loss, SmoothPinball)
    (first,) = torch.autograd.grad(values.sum(), leaf)
    assert_close_per_row(loss.residual(eta, y), first, 1e-11)
    stack = torch.stack([eta, -eta], dim=2)
    assert_close_per_row(loss.residual(stack, y)[:, :, 1], loss.residual(-eta, y), 1e-13)
    step = 1e-6
    numeric = (loss.residual(eta + step, y) - loss.residual(eta - step, y)) / (2 * step)
    found, low = loss.curvature(eta, y)
    assert low is None
    assert bool((found >= 0).all())
    assert float((found - numeric).abs().max()) < 1e-6


@pytest.mark.parametrize("power", [1, 1.3, 1.5, 2])
def test_tweedie_is_half_the_deviance(power: float):
    y, eta = draw(B, 1, seed=1).exp(), draw(B, 1, seed=2)
    found = Tweedie(power).value(eta, Tweedie(power).encode(y, 1)).mean()
    assert 2 * float(found) == pytest.approx(
        mean_tweedie_deviance(y[:, 0].numpy(), eta[:, 0].exp().numpy(), power=power), rel=1e-10
    )


def test_smooth_losses_tend_to_the_sharp_ones():
    y, eta = draw(B, 1, seed=1), draw(B, 1, seed=2)
    pinball = SmoothPinball(0.3, 1e-9).value(eta, y).mean()
    assert float(pinball) == pytest.approx(mean_pinball_loss(y.numpy(), eta.numpy(), alpha=0.3), rel=1e-7)
    tube = np.maximum(0, np.abs((eta - y).numpy()) - 0.4).sum(1)
    assert_close_per_row(
        SmoothEpsilonInsensitive(0.4, 1e-9).value(eta, y)[:, None] + 1, tube[:, None] + 1, 1e-7
    )


def test_bad_settings_and_targets():
    with pytest.raises(ValueError, match=r"power must lie in 1\.\.2"):
        Tweedie(3)
    for make in (
        lambda: Huber(0),
        lambda: SmoothPinball(0.5, 0.0),
        lambda: SmoothEpsilonInsensitive(0.1, -1.0),
    ):
        with pytest.raises(ValueError, match="must be > 0"):
            make()
    with pytest.raises(ValueError, match="targets must be >= 0, got -1 in example 1"):
        Tweedie(1).encode(torch.tensor([0.0, -1.0]), 1)
    with pytest.raises(ValueError, match="targets must be > 0, got 0 in example 0"):
        Tweedie(2).encode(torch.tensor([0.0, 1.0]), 1)
    with pytest.raises(ValueError, match="targets have 1 columns, the model has 2 outputs"):
        Huber(1.0).encode(torch.zeros(3), 2)

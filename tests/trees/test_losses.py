"""Losses as they are boosted, beside differentiation of the loss itself."""

import pytest
import torch

from upweight.trees.losses import BoostedShares, BoostedSquared, relative, spread

from ..support.compare import assert_close_per_row
from ..support.ensembles import LOSSES, differentiated, invented

EACH = {**LOSSES, "shares": (BoostedShares(), 3), "numbers": (BoostedSquared(), 2)}


def examples(name):
    loss, c = EACH[name]
    draw = torch.Generator().manual_seed(0)
    scores = torch.randn(40, c, generator=draw).double()
    if name in LOSSES:
        return loss, c, scores, invented(loss, c).targets[:40]
    y = torch.randint(0, c, (40,), generator=draw) if name == "shares" else scores.flip(0) ** 2
    return loss, c, scores, y


@pytest.mark.parametrize("name", EACH)
def test_residuals_and_second_derivatives_are_those_of_the_loss(name):
    loss, c, scores, y = examples(name)
    slopes = loss.slopes(scores, y)
    scores = scores.requires_grad_()
    for k in range(c):
        slope, bend = differentiated(loss, scores, y, k)
        assert_close_per_row(slopes.r[:, k], -slope, 1e-12)
        assert_close_per_row(slopes.h[:, k], bend, 1e-12)


@pytest.mark.parametrize("name", EACH)
def test_what_a_row_adds_moves_with_its_scores_as_the_slopes_say(name):
    loss, c, scores, y = examples(name)
    value = torch.randn(40, generator=torch.Generator().manual_seed(1)).double()
    move = torch.randn(40, c, 2, generator=torch.Generator().manual_seed(2)).double()
    slopes, step = loss.slopes(scores, y), 1e-6
    for k in range(c):
        found = slopes.bent(k, value)[:, None] * relative(slopes.q, move)[:, k]
        for j in range(2):
            up, down = (loss.slopes(scores + s * step * move[:, :, j], y).pulled(k, value) for s in (1, -1))
            assert_close_per_row(found[:, j][None], ((up - down) / (2 * step))[None], 1e-7)


@pytest.mark.parametrize("name", EACH)
def test_spread_is_the_transpose_of_relative(name):
    loss, c, scores, y = examples(name)
    slopes = loss.slopes(scores, y)
    draw = torch.Generator().manual_seed(2)
    a, b = (torch.randn(40, c, 1, generator=draw).double() for _ in range(2))
    assert_close_per_row(
        (relative(slopes.q, a) * b).sum((1, 2)), (a * spread(slopes.q, b)).sum((1, 2)), 1e-10
    )


def test_scores_far_out_overflow_nowhere():
    for sign in (-1.0, 1.0):
        loss, _ = EACH["logistic"]
        slopes = loss.slopes(torch.tensor([[800.0]]).double() * sign, torch.ones(1))
        assert all(part.isfinite().all() for part in slopes[:4])

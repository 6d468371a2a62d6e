"""Factors and scores in half precision: what they say of their error is what it is."""

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tests.support.networks import problem_of
from upweight import EKFAC, GaussNewton, Influence, Problem


def twins(autocast: Any = torch.bfloat16) -> list[Problem]:
    """A convolutional network in float32, in its own precision and in another."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 8, 3),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(8 * 36, 24),
        nn.LayerNorm(24),
        nn.Tanh(),
        nn.Linear(24, 4),
    )
    data = torch.randn(200, 1, 8, 8), torch.randint(4, (200,))
    return [Problem(model, F.cross_entropy, data, l2=1e-3, autocast=kind) for kind in (None, autocast)]


def test_the_stated_error_is_that_of_the_gradients_and_of_the_scores():
    exact, rounded = twins()
    stated = rounded.autocast_error
    assert 1e-4 < stated < 3e-2
    rows = torch.randn(3, exact.p)
    wanted, found = exact.all_products(rows), rounded.all_products(rows)
    off = (found - wanted).norm(dim=1) / wanted.norm(dim=1)
    assert float(off.min()) > 1e-5
    assert float(off.max()) < 3 * stated
    test = exact.train_batch(torch.arange(4))
    truth, mine = (Influence(p, curvature=EKFAC(p, 0.01)).on_loss(test) for p in (exact, rounded))
    off = (mine.values - truth.values).norm(dim=1) / truth.values.norm(dim=1)
    assert float(off.min()) > 1e-5
    assert float(off.max()) < 3 * stated
    words = f"bfloat16 for EKFAC's factors and training examples, whose gradients it changes by up to {stated:.1%}"
    assert words in " ".join(mine.provenance["settings"])
    assert "bfloat16" not in " ".join(truth.provenance["settings"])


def test_what_is_not_rounded_stays_as_it_is():
    exact, rounded = twins()
    test = exact.train_batch(torch.arange(4))
    assert torch.equal(exact.test_gradients(test), rounded.test_gradients(test))
    assert torch.equal(exact.gradient(), rounded.gradient())
    v = torch.randn(2, exact.p)
    assert torch.equal(GaussNewton(exact).operator()(v), GaussNewton(rounded).operator()(v))
    assert rounded.evaluation.autocast is None
    assert rounded.layers.layered.of.autocast is None
    assert rounded.layers.rounded.of.autocast == torch.bfloat16
    assert exact.autocast_error == 0


def test_answers_in_another_precision_have_another_fingerprint():
    exact, rounded = twins()
    assert exact.fingerprint() != rounded.fingerprint()


def test_examples_that_are_not_taken_layer_by_layer_are_not_rounded():
    exact, rounded = (problem_of("branches", autocast=kind) for kind in (None, torch.bfloat16))
    rows = torch.randn(2, exact.p, dtype=torch.float64)
    assert torch.equal(exact.all_products(rows), rounded.all_products(rows))
    assert rounded.autocast_error == 0
    rough, plain = (EKFAC(p, 0.1).operator()(rows) for p in (rounded, exact))
    assert torch.equal(rough, plain)  # nor are the factors: the stated error is 0


def test_an_overflow_is_no_small_error():
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    data = 1e6 * torch.randn(20, 3), torch.arange(20) % 2
    assert Problem(model, F.cross_entropy, data, autocast=torch.float16).autocast_error == float("inf")


@pytest.mark.parametrize("kind", [torch.float32, "bfloat16", True])
def test_other_precisions_are_refused(kind):
    with pytest.raises(ValueError, match=r"autocast must be torch\.bfloat16"):
        twins(kind)

"""A network away from the minimum of its objective is said to be so wherever effects are shown."""

import warnings
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tests.support.cases import draw
from upweight import GaussNewton, Influence, Problem, Scores, explain, mismatch
from upweight.errors import NotStationaryWarning
from upweight.influence.checks import drift
from upweight.influence.stationarity import below_drift, finishing

N = 60
X = draw(N, 4)
Y = (X[:, 0] + 0.5 * draw(N, 1, seed=1)[:, 0] > 0).long()
TEST = X[:5], Y[:5]
DECAY = 0.05


def trained(kind: Any) -> Any:
    """A network and its optimiser, which has come to rest."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 2)).double()
    optimiser = kind(model.parameters(), lr=0.02, weight_decay=DECAY)
    schedule = torch.optim.lr_scheduler.LinearLR(optimiser, 1.0, 0.01, 800)
    for _ in range(800):
        optimiser.zero_grad()
        F.cross_entropy(model(X), Y).backward()
        optimiser.step()
        schedule.step()
    return model, optimiser


def asked(model: Any, l2: Any) -> Influence:
    problem = Problem(model, F.cross_entropy, (X, Y), l2=l2)
    return Influence(problem, curvature=GaussNewton(problem, 0.01))


def test_the_decay_of_adam_is_an_l2_and_that_of_adamw_is_none():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        asked(trained(torch.optim.Adam)[0], DECAY).on_loss(TEST)
    model, optimiser = trained(torch.optim.AdamW)
    with pytest.warns(NotStationaryWarning, match=r"not at a minimum of this objective.*AdamW is no l2"):
        far = asked(model, DECAY).on_loss(TEST)
    states = [optimiser.state[part] for part in model.parameters()]
    scale = [(s["exp_avg_sq"] / (1 - 0.999 ** s["step"])).sqrt().flatten() + 1e-8 for s in states]
    near = asked(model, DECAY * torch.cat(scale))
    assert near.problem.gradient().norm() < 0.1 * asked(model, DECAY).problem.gradient().norm()
    left = near.on_loss(TEST).drift
    assert left is not None
    assert far.drift is not None
    assert left.abs().sum() < 0.1 * far.drift.abs().sum()


@pytest.mark.parametrize("show", ["scores", "groups", "slice", "explained"])
def test_every_table_of_effects_says_it(show):
    torch.manual_seed(0)
    influence = asked(nn.Linear(4, 2).double(), 0.0)
    groups = ["a"] * 30 + ["b"] * 30
    shown: Any = {
        "scores": lambda: influence.on_loss(TEST),
        "groups": lambda: influence.of_removal(groups, TEST),
        "slice": lambda: mismatch(influence, TEST, by=groups),
        "explained": lambda: explain(influence, (X[:1], Y[:1])),
    }[show]
    with pytest.warns(NotStationaryWarning):
        found = shown()
    for text in (repr(found), found._repr_html_()):
        assert "Finishing the training would change the" in text
        assert "of the effects are smaller and not to be trusted" in text


def test_a_share_of_the_largest_effects():
    effects = torch.arange(1.0, 41.0).view(2, 20)
    assert below_drift(effects, torch.tensor([-15.5, 100.0])) == (5 + 10) / 20
    assert below_drift(effects[:, :0], torch.zeros(2)) == 0
    text = finishing("margin", torch.tensor([-15.5, 0.0]), effects)
    assert text.startswith(
        "Finishing the training would change the margin by up to 1.6e+01: 38% of the effects"
    )


def test_no_drift_is_zero_without_a_sign():
    found = drift(torch.zeros(3), torch.ones(2, 3))
    assert not found.signbit().any()
    scores = Scores(torch.ones(2, 3, dtype=torch.float64), 9, drift=found.double())
    assert "by up to 0.0e+00: 0%" in repr(scores)

"""How far effects hold in replays of a recorded run: error bars, metasmoothness, and the verdict."""

import functools
from typing import Any

import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn

import upweight as uw
from upweight.influence.replayed import drawn, error_bars

N, M = 120, 3
SMOOTH = (nn.Tanh, functools.partial(torch.optim.SGD, lr=0.05))
ROUGH = (nn.ReLU, functools.partial(torch.optim.Adam, lr=0.1))


@functools.cache
def case(kind):
    """A run of the digits, its test rows, and what each removal really does."""
    act, optimizer = kind
    X, y = (torch.tensor(part)[: N + M] for part in load_digits(return_X_y=True))
    X = X.float() / 16
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(64, 12), act(), nn.Linear(12, 10))
    run = uw.TrainingRun.train(
        net, nn.CrossEntropyLoss(), (X[:N], y[:N]), optimizer=optimizer, epochs=8, batch_size=20, seed=1
    )
    test = X[N:], y[N:]
    before = run.problem.evaluate(test).double()
    replays: Any = run.problem.replays
    ends = replays.without(list(torch.arange(N).split(1)))
    return uw.Unrolled(run), test, torch.stack([end.evaluate(test).double() - before for end in ends], dim=1)


@pytest.mark.parametrize("kind", [SMOOTH, ROUGH], ids=["smooth", "rough"])
def test_error_bars_hold_the_true_effects_at_their_stated_rate(kind):
    unrolled, test, actual = case(kind)
    covered = []
    for seed in range(4):
        found = unrolled.replayed(test, seed=seed).scores
        covered.append(((actual - found.effect()).abs() <= 2 * found.errors).double().mean())
    assert 0.9 <= float(torch.stack(covered).mean()) <= 0.99


def test_a_smooth_run_is_trusted_and_a_rough_one_is_not():
    smooth, rough = (case(kind)[0].replayed(case(kind)[1]) for kind in (SMOOTH, ROUGH))
    assert smooth.metasmoothness > 0.95
    assert smooth.noise < 1e-5
    assert "rounding moves a replay by up to" in smooth.said
    assert smooth.bend > 0.9
    assert smooth.miss < 0.1
    assert rough.metasmoothness < 0.3
    assert rough.miss > 0.5
    assert float((rough.scores.errors / smooth.scores.errors).median()) > 10
    said = [uw.trust(*case(kind)[:2]) for kind in (SMOOTH, ROUGH)]
    assert said[0].level == "trust"
    assert said[1].level == "do not trust"
    assert said[0].reasons[0].startswith("smooth: 24 rows removed and training replayed")
    assert "after a warm-up (run.last)" in said[1].reasons[0]
    assert uw.trust(*case(SMOOTH)[:2], removals=0).level == "trust the ranking only"


def test_the_replayed_effects_are_those_of_replays_one_by_one():
    unrolled, test, actual = case(SMOOTH)
    found = unrolled.replayed(test).table
    one = found[found["test row"] == 1]
    assert torch.allclose(
        torch.tensor(one["actual"].to_numpy()),
        actual[1, torch.tensor(one["train row"].to_numpy())],
        rtol=1e-3,
        atol=1e-6,
    )
    weights = torch.ones(1, N)
    weights[0, one["train row"].iloc[0]] = 0.5
    end = next(unrolled.problem.replays.weighted(weights))
    half = (end.evaluate(test) - unrolled.problem.evaluate(test))[1]
    assert one["half"].iloc[0] == pytest.approx(float(half), rel=1e-2, abs=1e-6)


def test_error_bars_grow_with_effects_where_errors_do_and_not_where_they_do_not():
    generator = torch.Generator().manual_seed(0)
    effect = torch.randn(2, 4000, generator=generator, dtype=torch.float64)
    noise = torch.randn(2, 4000, generator=generator, dtype=torch.float64)
    spread = torch.stack([0.2 * effect[0].abs() + 1e-6, torch.full((4000,), 0.3).double()])
    bars = error_bars(effect, effect[:, :400], (noise * spread)[:, :400])
    assert torch.allclose(bars[1].mean() / 0.3, torch.tensor(1.0).double(), atol=0.15)
    shares = ((noise * spread).abs() <= 2 * bars)[:, 400:].double().mean(1)
    assert torch.allclose(shares, torch.full((2,), 0.95).double(), atol=0.03)
    large = effect[0].abs() > 1
    assert torch.allclose(bars[0, large] / effect[0, large].abs(), torch.tensor(0.2).double(), atol=0.05)


def test_rows_are_drawn_from_all_sizes_of_effects():
    effect = torch.arange(100.0).double()[None]
    rows = drawn(effect, 20, seed=3)
    assert torch.equal(((99 - rows) // 5), torch.arange(20))


def test_what_cannot_be_replayed_is_refused():
    unrolled, test, _ = case(SMOOTH)
    with pytest.raises(ValueError, match="at least 19"):
        unrolled.replayed(test, removals=5)


def test_other_uses_take_a_run_or_say_why_not():
    unrolled, test, _ = case(SMOOTH)
    by = ["even" if i % 2 else "odd" for i in range(N)]
    found = uw.mismatch(unrolled, test, by)
    effects = unrolled.of_removal(by, test).first_order.mean(0)
    assert sorted(found.groups["effect of removal"]) == pytest.approx(sorted(effects.tolist()))
    with pytest.raises(TypeError, match="for linear classifiers"):
        uw.flip_set(unrolled, test)
    with pytest.raises(TypeError, match="diagnostics are for linear models"):
        uw.diagnostics(unrolled)
    with pytest.raises(TypeError, match="there is none through training"):
        uw.vulnerability(unrolled, test[0], test, rows=range(3))


def test_the_last_steps_are_a_run_of_their_own():
    unrolled, test, _ = case(SMOOTH)
    run = unrolled.run
    whole = unrolled.on_loss(test).values
    last = run.last(9)
    assert len(last.steps) == 9
    assert torch.equal(last.end.theta, run.end.theta)
    assert torch.allclose(uw.Unrolled(run.last(len(run.steps))).on_loss(test).values, whole)
    found = uw.Unrolled(last).on_loss(test)
    row = int(last.steps[0].index[0])
    weights = torch.ones(2, N)
    weights[:, row] += torch.tensor([0.05, -0.05])
    up, down = (end.evaluate(test).double() for end in last.problem.replays.weighted(weights))
    assert torch.allclose(found.values[:, row] / N, (up - down) / 0.1, rtol=0.02, atol=1e-5)
    assert last.fingerprint() != run.fingerprint()
    with pytest.raises(ValueError, match="last takes 1 to 48 steps"):
        run.last(49)

"""Changed examples, inputs and parameters through a recorded run, against differences of replays in float64."""

import functools
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

import upweight as uw
from upweight.training.probes import swapped

N, M, ROWS, H = 12, 3, [2, 7], 1e-5
RULES: dict[str, Any] = {
    "momentum, dropout": (
        functools.partial(torch.optim.SGD, lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.01),
        {"seed": 3},
    ),
    "AdamW, clipped": (functools.partial(torch.optim.AdamW, lr=0.01), {"seed": 3, "clip": 0.5}),
    "Adam, lowered": (functools.partial(torch.optim.Adam, lr=0.01), {"removal": "lowered"}),
}


def data(seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    X = torch.randn(N + M, 5, generator=generator, dtype=torch.float64)
    return X, torch.randint(0, 3, (N + M,), generator=generator)


def recorded(X, y, rule="momentum, dropout", **more):
    torch.manual_seed(5)
    net = nn.Sequential(nn.Identity(), nn.Linear(5, 6), nn.Tanh(), nn.Dropout(0.2), nn.Linear(6, 3)).double()
    order = [torch.randperm(N, generator=torch.Generator().manual_seed(t))[:5] for t in range(8)]
    batches = [*order, [order[0][:2], order[1][:3]], torch.tensor([2, 2, 7])]
    optimizer, options = RULES[rule]
    return uw.TrainingRun(
        net, nn.CrossEntropyLoss(), (X[:N], y[:N]), optimizer=optimizer, batches=batches, **options, **more
    )


def close(found, expected):
    return float((found - expected).norm() / expected.norm()) <= 1e-6


@pytest.mark.parametrize("rule", RULES)
def test_derivatives_in_inputs_are_those_of_replays(rule):
    X, y = data()
    test = (X[N:], y[N:])
    found, expected = uw.Unrolled(recorded(X, y, rule)).on_inputs(ROWS, test), []
    ways = data(1)[0][: len(ROWS)]
    for i, way in zip(ROWS, ways, strict=True):
        step = torch.zeros_like(X)
        step[i] = H * way
        there, back = (recorded(X + sign * step, y, rule).problem.evaluate(test) for sign in (1, -1))
        expected.append((there - back) / (2 * H) * N)
    assert close((found * ways).sum(-1), torch.stack(expected, dim=1))


@pytest.mark.parametrize("rule", RULES)
def test_moves_of_parameters_are_those_of_replays(rule):
    X, y = data()
    run = recorded(X, y, rule)
    weights = torch.ones(2 * len(ROWS), N, dtype=torch.float64)
    for b, i in enumerate(ROWS):
        weights[2 * b, i] += H
        weights[2 * b + 1, i] -= H
    theta = torch.stack([there.theta for there in run.problem.replays.weighted(weights)])
    assert close(uw.Unrolled(run).on_params(ROWS), (theta[::2] - theta[1::2]) / (2 * H) * N)


@pytest.mark.parametrize("rule", RULES)
def test_a_changed_example_is_that_of_replays_with_part_of_each_loss(rule):
    X, y = data()
    run, test, rows = recorded(X, y, rule), (X[N:], y[N:]), [2, 7, 2]
    others = data(1)[0][:3], torch.tensor([0, 1, 2])

    def mixed(b, e):
        """The measure after a replay whose step has (1 - e) of the row's loss and e of the other's."""
        row, own = torch.tensor(rows[b : b + 1]), run.start.objective
        own = replace(own, averaging=replace(own.averaging, removal="kept"))
        other = replace(own, data=swapped(own.data, row, tuple(part[b : b + 1] for part in others)))
        state, forward = run.start.state, run.forward
        for step in run.steps:
            parts = {}
            for name, objective, w in (
                ("whole", own, torch.ones(step.count)),
                ("before", own, step.index == row),
                ("after", other, step.index == row),
            ):
                state.begin()
                leaves, buffers = forward.leaves(state.theta), forward.buffers(state)
                parts[name] = objective.gradient(leaves, buffers, w.double(), step)[0]
            g = {k: one + e * (parts["after"][k] - parts["before"][k]) for k, one in parts["whole"].items()}
            state = forward.arrived(state, step, g, buffers)
        return run.problem.at(state.theta).evaluate(test)

    expected = torch.stack([(mixed(b, H) - mixed(b, -H)) / (2 * H) * N for b in range(3)], dim=1)
    found = uw.Unrolled(run).of_change(rows, others, test)
    assert close(found.values, expected)
    assert found.edit == "replaced"
    assert close(found.effect(), expected / N)


def test_a_small_edit_is_its_derivative_in_the_inputs():
    X, y = data()
    unrolled, test, small = uw.Unrolled(recorded(X, y)), (X[N:], y[N:]), 1e-7 * data(1)[0][: len(ROWS)]
    edited = unrolled.of_change(ROWS, (X[ROWS] + small, y[ROWS]), test).values
    slopes = unrolled.on_inputs(ROWS, test)
    assert torch.allclose(edited, (slopes * small).sum(-1), rtol=1e-5, atol=0)


def test_derivatives_in_what_a_layer_gives():
    X, y = data()
    unrolled, test = uw.Unrolled(recorded(X, y)), (X[N:], y[N:])
    expected = unrolled.on_inputs(ROWS, test)
    assert torch.allclose(unrolled.on_inputs(ROWS, test, at="0"), expected, rtol=1e-12, atol=0)
    assert unrolled.on_inputs(ROWS, test, at="1").shape == (M, len(ROWS), 6)
    with pytest.raises(ValueError, match="no layer 'first'"):
        unrolled.on_inputs(ROWS, test, at="first")


def test_a_changed_form_a_batch_and_unseen_rows_are_refused():
    X, y = data()
    unrolled, test = uw.Unrolled(recorded(X, y)), (X[N:], y[N:])
    with pytest.raises(ValueError, match="must have the form of the training examples"):
        unrolled.of_change([2], (torch.zeros(1, 4, dtype=torch.float64), y[:1]), test)
    with pytest.raises(ValueError, match="`before` has 1 examples, `after` has 2"):
        unrolled.of_change([2], (X[:2], y[:2]), test)
    with pytest.raises(TypeError, match="numbers of training examples"):
        unrolled.on_params((X[:1], y[:1]))
    run = uw.TrainingRun(
        nn.Linear(5, 3).double(),
        nn.CrossEntropyLoss(),
        (X[:N], y[:N]),
        optimizer=functools.partial(torch.optim.SGD, lr=0.1),
        batches=[[0, 1]],
    )
    with pytest.raises(ValueError, match="none of these training rows is in any step"):
        uw.Unrolled(run).on_inputs([5], test)


class Shared(nn.Module):
    """Batch norm on the inputs, which no parameter moves, and behind a layer.

    Intercepts in front of it would have no gradient but rounding, which Adam divides by its own size.
    """

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.BatchNorm1d(5, momentum=0.3, affine=False), nn.BatchNorm1d(6)
        self.inner, self.drop, self.last = nn.Linear(5, 6, bias=False), nn.Dropout(0.2), nn.Linear(6, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.drop(self.second(self.inner(self.first(x))).tanh()))


NORMED: dict[str, tuple[Any, dict[str, Any]]] = {
    "momentum": (functools.partial(torch.optim.SGD, lr=0.1, momentum=0.5), {"seed": 3}),
    "plain": (functools.partial(torch.optim.SGD, lr=0.1), {}),
    "AdamW, clipped, lowered": (
        functools.partial(torch.optim.AdamW, lr=0.01),
        {"seed": 3, "clip": 0.5, "removal": "lowered"},
    ),
}


def normed(X, y, rule):
    torch.manual_seed(5)
    order = [torch.randperm(N, generator=torch.Generator().manual_seed(t))[:5] for t in range(5)]
    batches = [*order, [order[0][:2], order[1][:3]], torch.tensor([2, 2, 7, 4])]
    optimizer, options = NORMED[rule]
    return uw.TrainingRun(
        Shared().double(),
        nn.CrossEntropyLoss(),
        (X[:N], y[:N]),
        optimizer=optimizer,
        batches=batches,
        **options,
    )


@pytest.mark.parametrize("rule", NORMED)
def test_with_batch_norm_a_changed_input_moves_the_others_of_its_batches(rule):
    X, y = data()
    test, ways = (X[N:], y[N:]), data(1)[0][: len(ROWS)]
    unrolled, expected = uw.Unrolled(normed(X, y, rule)), []
    for i, way in zip(ROWS, ways, strict=True):
        step = torch.zeros_like(X)
        step[i] = H * way
        there, back = (normed(X + sign * step, y, rule).problem.evaluate(test) for sign in (1, -1))
        expected.append((there - back) / (2 * H) * N)
    wanted = torch.stack(expected, dim=1)
    assert close((unrolled.on_inputs(ROWS, test) * ways).sum(-1), wanted)
    sides = [unrolled.of_change(ROWS, (X[ROWS] + sign * H * ways, y[ROWS]), test).values for sign in (1, -1)]
    assert close((sides[0] - sides[1]) / (2 * H), wanted)


@pytest.mark.parametrize("rule", NORMED)
def test_with_batch_norm_a_changed_example_is_that_of_replays_with_part_of_each_batch(rule):
    X, y = data()
    run, test, rows = normed(X, y, rule), (X[N:], y[N:]), [2, 7, 2]
    others = data(1)[0][:3], torch.tensor([0, 1, 2])

    def mixed(b, e):
        """The measure after a replay whose steps have (1 - e) of the old batch's loss and e of the new one's."""
        row, own = torch.tensor(rows[b : b + 1]), run.start.objective
        other = replace(own, data=swapped(own.data, row, tuple(part[b : b + 1] for part in others)))
        state, forward = run.start.state, run.forward
        for step in run.steps:
            found = []
            for objective in (own, other):
                state.begin()
                leaves, w = forward.leaves(state.theta), torch.ones(step.count).double()
                found.append(objective.gradient(leaves, forward.buffers(state), w, step))
            (old, before), (new, after) = found
            g = {name: (1 - e) * one + e * new[name] for name, one in old.items()}
            moving = own.moving.names
            buffers = before | {name: (1 - e) * before[name] + e * after[name] for name in moving}
            state = forward.arrived(state, step, g, buffers)
        return run.start.problem_at(state).evaluate(test)

    expected = torch.stack([(mixed(b, H) - mixed(b, -H)) / (2 * H) * N for b in range(3)], dim=1)
    assert close(uw.Unrolled(run).of_change(rows, others, test).values, expected)

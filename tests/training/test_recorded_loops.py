"""Recorded loops end in the weights of the loop, and their answers are its own derivatives."""

import functools
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from tests.support.compare import assert_close_per_row
from tests.support.loops import Loop, assert_follows_weights
from tests.support.runs import C, D, data, differences
from upweight import InfluenceError, Recorder, Unrolled
from upweight.measures import Overall

CLASS_WEIGHTS = torch.tensor([0.5, 1.0, 2.5], dtype=torch.float64)
WORDS = 9


def over(kind, **settings):
    return lambda model: kind(model.parameters(), **settings)


SGD = functools.partial(over, torch.optim.SGD)
ADAM = functools.partial(over, torch.optim.Adam)
ADAMW = functools.partial(over, torch.optim.AdamW)


def two_groups(model):
    first, second = model[0].parameters(), model[3].parameters()
    groups = [
        {"params": first, "lr": 0.05, "weight_decay": 0.1, "momentum": 0.5},
        {"params": second, "lr": 0.2},
    ]
    return torch.optim.SGD(groups, momentum=0.9)


def decay_groups(model):
    some = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim == 1]
    return torch.optim.AdamW(
        [{"params": some, "weight_decay": 0.3}, {"params": others, "weight_decay": 0}], lr=0.05
    )


class Unused(torch.nn.Module):
    """A head that the loss never sees: no gradient, and so neither decay nor moments."""

    def __init__(self):
        super().__init__()
        self.used, self.idle = torch.nn.Linear(D, C), torch.nn.Linear(D, 2)

    def forward(self, x):
        return self.used(x)


class Tied(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.inside, self.out = torch.nn.Linear(D, D), torch.nn.Linear(D, D, bias=False)
        self.out.weight = self.inside.weight

    def forward(self, x):
        return self.out(self.inside(x).tanh())


class Frozen(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.head = torch.nn.Linear(D, 4), torch.nn.Linear(4, 3)
        self.body.requires_grad_(False)

    def forward(self, x):
        return self.head(self.body(x).tanh())


class Words(torch.nn.Module):
    """Of the words, some occur in no training example."""

    def __init__(self, sparse=False):
        super().__init__()
        self.words, self.out = torch.nn.Embedding(WORDS, 4, sparse=sparse), torch.nn.Linear(4, 3)

    def forward(self, x):
        return self.out(self.words(x).mean(1).tanh())


def words():
    draw = torch.Generator().manual_seed(2)
    return torch.randint(0, WORDS - 3, (17, 3), generator=draw), torch.randint(0, 3, (17,), generator=draw)


def probabilities(outputs, y, reduction="mean"):
    return F.nll_loss((outputs + 1e-8).log(), y, reduction=reduction)


def one_cycle(optimizer):
    return torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.1, total_steps=15)


def halved(optimizer):
    return torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.5)


def normed(**settings):
    def made():
        layers = (
            torch.nn.Linear(D, 6),
            torch.nn.BatchNorm1d(6, **settings),
            torch.nn.Tanh(),
            torch.nn.Dropout(0.1),
        )
        return torch.nn.Sequential(*layers, torch.nn.Linear(6, C))

    return made


class Pictures(torch.nn.Module):
    """Batch norm of channels, used twice in a forward pass."""

    def __init__(self):
        super().__init__()
        self.first, self.second = torch.nn.Conv1d(1, 3, 3), torch.nn.Conv1d(3, 3, 1)
        self.norm, self.out = torch.nn.BatchNorm1d(3), torch.nn.Linear(3, C)

    def forward(self, x):
        h = self.norm(self.first(x[:, None])).tanh()
        return self.out(self.norm(self.second(h)).mean(2))


def of_the_head(model: Any) -> torch.optim.Optimizer:
    """An optimiser over a part of the model."""
    return torch.optim.SGD(model.head.parameters(), lr=0.2)


LOOPS = {
    "sgd": Loop(SGD(lr=0.2)),
    "sgd, batches of one": Loop(SGD(lr=0.05), batch=1, epochs=1),
    "momentum, dampening": Loop(SGD(lr=0.1, momentum=0.9, dampening=0.3, weight_decay=0.01)),
    "adamw": Loop(ADAMW(lr=0.05, weight_decay=0.1)),
    "adamw, foreach": Loop(ADAMW(lr=0.05, foreach=True)),
    "adamw, fused": Loop(ADAMW(lr=0.05, fused=True)),
    "two groups": Loop(two_groups),
    "groups with and without decay": Loop(decay_groups),
    "clipped": Loop(SGD(lr=0.2, momentum=0.5), said={"clip": 0.4}),
    "clipped, adam": Loop(ADAM(lr=0.05), said={"clip": 0.4}),
    "momentum in one cycle": Loop(SGD(lr=0.1, momentum=0.9), schedule=one_cycle),
    "betas in one cycle": Loop(ADAMW(lr=0.1), schedule=one_cycle),
    "a schedule by epochs": Loop(SGD(lr=0.3), schedule=halved, per_epoch=True),
    "drop_last": Loop(ADAM(lr=0.05), loader=lambda: {"shuffle": True, "drop_last": True}),
    "accumulated by the full number": Loop(ADAMW(lr=0.05), group=3, batch=4, said={"accumulation": 3}),
    "accumulated, clipped": Loop(SGD(lr=0.3), group=2, said={"accumulation": 2, "clip": 0.3}),
    "validation in between": Loop(SGD(lr=0.2), validates=True),
    "a generator of the loader": Loop(
        SGD(lr=0.2), loader=lambda: {"shuffle": True, "generator": torch.Generator().manual_seed(3)}
    ),
    "no shuffling, probabilities": Loop(
        SGD(lr=0.2),
        model=lambda: torch.nn.Sequential(torch.nn.Linear(D, C), torch.nn.Softmax(-1)),
        loader=dict,
        loss=probabilities,
        each=functools.partial(probabilities, reduction="none"),
    ),
    "an unused head": Loop(ADAMW(lr=0.05, weight_decay=0.1), model=Unused),
    "frozen": Loop(of_the_head, model=Frozen),
    "frozen, all handed over": Loop(ADAM(lr=0.05), model=Frozen),
    "tied": Loop(ADAM(lr=0.05), model=Tied),
    "an optimiser that has stepped": Loop(ADAMW(lr=0.05), warm=3),
    "momentum that has stepped": Loop(SGD(lr=0.1, momentum=0.9, dampening=0.2), warm=2),
    "words that do not occur, adam": Loop(ADAM(lr=0.05), model=Words, data=words),
    "words that do not occur, amsgrad": Loop(ADAMW(lr=0.05, amsgrad=True), model=Words, data=words),
    "sparse gradients": Loop(SGD(lr=0.2), model=functools.partial(Words, sparse=True), data=words),
    "batch norm": Loop(SGD(lr=0.1, momentum=0.5), model=normed(), batch=6),
    "batch norm, the mean of all batches": Loop(SGD(lr=0.1), model=normed(momentum=None), batch=6),
    "batch norm, adam, accumulated": Loop(
        ADAM(lr=0.05, eps=1e-3),
        model=normed(affine=False, momentum=0.3),
        batch=4,
        group=2,
        said={"accumulation": 2},
    ),
    "batch norm, used twice": Loop(SGD(lr=0.1), model=Pictures, batch=6),
    "smoothed labels": Loop(
        SGD(lr=0.2),
        loss=torch.nn.CrossEntropyLoss(label_smoothing=0.1),
        each=functools.partial(F.cross_entropy, label_smoothing=0.1, reduction="none"),
    ),
    "class weights": Loop(
        SGD(lr=0.2),
        each=functools.partial(F.cross_entropy, weight=CLASS_WEIGHTS, reduction="none"),
        shares=lambda y: CLASS_WEIGHTS[y].sum(),
        said={"weights": CLASS_WEIGHTS[data()[1]], "counts": CLASS_WEIGHTS[data()[1]]},
    ),
}


@pytest.mark.parametrize("name", LOOPS)
def test_answers_are_derivatives_of_the_loop_itself(name):
    loop = LOOPS[name]
    X, y = loop.data()
    run = assert_follows_weights(loop.trained, (X[:4], y[:4]))
    assert run.gap is not None
    assert run.gap < 1e-12


def test_a_bias_that_only_rounding_errors_move_parts_nothing():
    """In front of batch norm a bias has no gradient: Adam divides its rounding errors by their own size."""
    run = Loop(ADAM(lr=0.05), model=normed(), batch=6).recorded()
    assert run.gap is not None
    assert run.gap < 1e-8
    theta, bias = run.end.theta.clone(), slice(6 * D, 6 * D + 6)
    assert run.start.groups.rule.noisy(run.end.memory, theta).nonzero()[:, 0].tolist() == [
        *range(bias.start, bias.stop)
    ]


def test_replays_with_batch_norm_are_those_one_by_one():
    run = LOOPS["batch norm"].recorded()
    X, y = data()
    w = torch.ones(2, run.n, dtype=torch.float64)
    w[0, 3], w[1, [4, 5]] = 0, 0
    ends = run.replays.together(w)
    assert ends is not None
    assert {*ends.buffers} == {"1.running_mean", "1.running_var", "1.num_batches_tracked"}
    for end, one in zip(run.replays.weighted(w), w, strict=True):
        assert_close_per_row(end.evaluate((X, y))[None], run.replays.alone(one).evaluate((X, y))[None], 1e-12)


def test_what_weight_0_means_under_batch_norm_is_said():
    run = LOOPS["batch norm"].recorded()
    assert "stays in the batch statistics" in str(Unrolled(run).settings)
    assert "batch norm" not in str(Unrolled(LOOPS["sgd"].recorded()).settings)


def test_a_measure_of_all_test_rows_goes_through_running_statistics():
    run = LOOPS["batch norm"].recorded()
    test = data(n=9, seed=7)
    measure = Overall(lambda outputs, y: F.cross_entropy(outputs, y).exp())
    found = run.derivatives(run.gradients(test, measure))[:, [0, 5]]
    assert_close_per_row(found, differences(run, test, [0, 5], measure), 1e-6)


def test_a_pass_through_batch_norm_that_was_cut_off_goes_on(tmp_path):
    run, test = LOOPS["batch norm"].recorded(), data(n=4, seed=1)
    v = run.gradients(test)
    assert torch.equal(run.derivatives(v, tmp_path), run.derivatives(v))
    assert torch.equal(run.derivatives(v, tmp_path), run.derivatives(v))


def test_buffers_that_move_by_themselves_are_refused():
    class Averaged(torch.nn.Linear):
        mean: torch.Tensor

        def __init__(self):
            super().__init__(D, C)
            self.register_buffer("mean", torch.zeros(D))

        def forward(self, x):
            if self.training:
                with torch.no_grad():
                    self.mean.mul_(0.9).add_(0.1 * x.mean(0))
            return super().forward(x - self.mean)

    run = Loop(SGD(lr=0.1), model=Averaged).recorded()
    with pytest.raises(InfluenceError, match="writes into its buffer 'mean' while it trains"):
        Unrolled(run).on_loss(data())


def test_a_recorded_loop_with_a_group_of_frozen_parameters_has_the_settings_of_the_other():
    X, y = data()
    model = torch.nn.Sequential(torch.nn.Linear(5, 6), torch.nn.Tanh(), torch.nn.Linear(6, 3)).double()
    for one in model[0].parameters():
        one.requires_grad_(False)
    groups: list[dict[str, Any]] = [
        {"params": list(model[0].parameters()), "lr": 0.5},
        {"params": list(model[2].parameters())},
    ]
    optimizer = torch.optim.SGD(groups, lr=0.1)
    recorder = Recorder(model, F.cross_entropy, (X, y), optimizer=optimizer)
    for rows in (torch.arange(8), torch.arange(8, 16)):
        recorder.step(rows)
        optimizer.zero_grad()
        F.cross_entropy(model(X[rows]), y[rows]).backward()
        optimizer.step()
    run = recorder.finish()
    assert run.gap is not None
    assert run.gap < 1e-12
    assert run.steps[0].settings[0]["lr"] == 0.1

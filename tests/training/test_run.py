"""A recorded run: its replay is training itself, and its derivatives are those of replays with other weights."""

import copy
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import upweight as uw
from upweight.training.minibatch import StepLoss
from upweight.training.reverse import pulled_back
from upweight.training.rules import RULES as KNOWN

from ..support.compare import assert_close_per_row
from ..support.runs import N, data, differences, network, sgd, trained

RULES: dict[str, Any] = {
    "sgd": sgd(),
    "decay": sgd(weight_decay=0.02),
    "momentum": sgd(momentum=0.9, dampening=0.1),
    "nesterov": sgd(momentum=0.9, nesterov=True, weight_decay=0.01),
    "ascent": sgd(lr=0.01, maximize=True),
    "adam": partial(torch.optim.Adam, lr=0.01, weight_decay=0.02),
    "adamw": partial(torch.optim.AdamW, lr=0.01, weight_decay=0.1),
    "amsgrad": partial(torch.optim.AdamW, lr=0.01, amsgrad=True, eps=1e-6),
}
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "clipped": {"clip": 0.3},
    "schedule": {"schedule": lambda t: 1 / (1 + t)},
    "lowered": {"removal": "lowered"},
    "weighted": {"weights": torch.linspace(0.5, 2, N), "counts": torch.linspace(1, 3, N)},
    "weighted, lowered": {"weights": torch.linspace(0.5, 2, N), "removal": "lowered"},
    "incomplete": {"drop_last": True},
}


def assert_small(run: uw.TrainingRun) -> None:
    assert run.gap is not None
    assert run.gap < 1e-13


def by_torch(model, optimizer, batches, schedule=None, clip=None, seed=3):
    """A plain loop, as a user writes it."""
    X, y = data()
    model = copy.deepcopy(model).train()
    made = optimizer(model.parameters())
    start = made.param_groups[0]["lr"]
    for t, rows in enumerate(batches):
        torch.manual_seed(seed * 1_000_003 + t)
        made.param_groups[0]["lr"] = start * (1 if schedule is None else schedule(t))
        made.zero_grad()
        F.cross_entropy(model(X[rows]), y[rows]).backward()
        if clip is not None:
            nn.utils.clip_grad_norm_(model.parameters(), clip)
        made.step()
    return model


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("fields", [{}, {"clip": 0.3, "schedule": lambda t: 1 / (1 + t)}])
def test_a_replay_ends_where_a_plain_loop_of_torch_ends(name, fields):
    run = trained(RULES[name], **fields)
    batches = [step.index for step in run.steps]
    with torch.random.fork_rng():
        model = by_torch(network(), RULES[name], batches, **fields)
    flat = torch.cat([value.detach().flatten() for value in model.parameters()])
    assert_close_per_row(run.end.theta[None], flat[None], 1e-13)
    again = uw.TrainingRun(
        network(),
        F.cross_entropy,
        data(),
        optimizer=RULES[name],
        batches=batches,
        seed=3,
        trained=model,
        **fields,
    )
    assert_small(again)
    assert all(not part.training for part in again.model.modules())


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("option", ["plain", "clipped"])
def test_derivatives_are_those_of_replays_for_every_optimiser(name, option):
    check(trained(RULES[name], **OPTIONS[option]))


@pytest.mark.parametrize("option", OPTIONS)
def test_derivatives_are_those_of_replays_for_every_option(option):
    check(trained(sgd(momentum=0.5), **OPTIONS[option]))


@pytest.mark.parametrize("accumulation", ["mean", "sum", "together", 4])
def test_derivatives_are_those_of_replays_where_gradients_are_accumulated(accumulation):
    order = torch.randperm(N, generator=torch.Generator().manual_seed(1)).split(5)
    batches = [list(order[:3]), list(order[3:]), order[1], list(order[2:4])]
    run = uw.TrainingRun(
        network(),
        F.cross_entropy,
        data(),
        optimizer=sgd(),
        batches=batches,
        seed=1,
        accumulation=accumulation,
    )
    check(run)


def check(run, rows=(0, 5, 11)):
    X, y = data(n=9, seed=7)
    found = run.derivatives(run.problem.test_gradients((X, y)))
    assert_close_per_row(found[:, list(rows)], differences(run, (X, y), list(rows)), 1e-6)


@pytest.mark.parametrize("name", ["sgd", "decay", "ascent", "adamw"])
@pytest.mark.parametrize("fields", [{}, {"clip": 0.3}])
def test_products_of_dense_layers_are_taken_apart_to_the_same_derivatives(name, fields, monkeypatch):
    plain = trained(RULES[name], **fields)
    monkeypatch.setattr("upweight.training.start.LARGE", 1)
    apart = trained(RULES[name], **fields)
    assert plain.start.dense == ()
    assert apart.start.dense == ("0.weight", "3.weight")
    v = plain.problem.test_gradients(data(n=9, seed=7))
    assert_close_per_row(apart.derivatives(v), plain.derivatives(v), 1e-12)


def test_a_weight_that_is_used_twice_is_not_taken_apart(monkeypatch):
    monkeypatch.setattr("upweight.training.start.LARGE", 1)

    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(5, 5), nn.Linear(5, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.last(self.first(self.first(x).tanh()) @ self.first.weight)

    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Tied().double()
    run = uw.TrainingRun.train(model, F.cross_entropy, data(), optimizer=sgd(), epochs=2, batch_size=8)
    assert run.start.dense == ("last.weight",)
    check(run)


def test_accumulated_means_are_those_of_torch():
    X, y = data()
    model, parts = network(dropout=0.0), [torch.arange(5), torch.arange(5, 12), torch.arange(12, 14)]
    for accumulation, loss in (
        ("mean", lambda o: torch.stack([F.cross_entropy(o[p], y[p]) for p in parts]).mean()),
        ("sum", lambda o: torch.stack([F.cross_entropy(o[p], y[p]) for p in parts]).sum()),
        (4, lambda o: torch.stack([F.cross_entropy(o[p], y[p]) for p in parts]).sum() / 4),
        ("together", lambda o: F.cross_entropy(o[:14], y[:14])),
    ):
        other = copy.deepcopy(model)
        optimizer = sgd()(other.parameters())
        loss(other(X)).backward()
        optimizer.step()
        run = uw.TrainingRun(
            model,
            F.cross_entropy,
            (X, y),
            optimizer=sgd(),
            batches=[parts],
            seed=0,
            accumulation=accumulation,
            trained=other,
        )
        assert_small(run)


def test_examples_that_come_twice_in_a_batch_count_twice():
    run = uw.TrainingRun(
        network(dropout=0.0),
        F.cross_entropy,
        data(),
        optimizer=sgd(),
        batches=[torch.tensor([3, 3, 5, 0]), torch.tensor([3, 1])],
    )
    check(run, rows=(3, 5, 1))


def test_a_coordinate_whose_gradient_is_always_zero_has_no_part_in_adams_derivative():
    X, y = data()
    X[:, 0] = 0
    run = uw.TrainingRun.train(
        network(), F.cross_entropy, (X, y), optimizer=RULES["adam"], epochs=2, batch_size=8
    )
    test = X[:4], y[:4]
    found = run.derivatives(run.problem.test_gradients(test))
    assert found.isfinite().all()
    assert_close_per_row(found[:, [2, 9]], differences(run, test, [2, 9]), 1e-6)


@pytest.mark.parametrize("entries", [1, 1 << 17], ids=["one run at a time", "all runs together"])
@pytest.mark.parametrize(
    ("rule", "clip"), [("adamw", 0.5), ("sgd", None), ("decay", None), ("momentum", None)]
)
def test_replays_at_once_are_those_one_by_one(rule: str, clip: float | None, entries: int, monkeypatch):
    monkeypatch.setattr("upweight.training.replays.IN_CACHE", entries)
    run = trained(RULES[rule], clip=clip)
    weights = torch.ones(3, N, dtype=torch.float64)
    weights[0, 3], weights[1, [4, 5]], weights[2] = 0, 0, 0.5
    at_once = run.replays.together(weights)
    assert at_once is not None
    one_by_one = [run.replays.alone(w).theta for w in weights]
    assert_close_per_row(at_once.theta, torch.stack(one_by_one), 1e-11)


def test_replays_that_part_from_the_run_among_others_are_taken_one_by_one(monkeypatch):
    run, weights = trained(), torch.ones(1, N, dtype=torch.float64)
    weights[0, 3] = 0
    plain, calls = StepLoss.gradients, []

    def otherwise(
        *args: Any,
    ) -> Any:  # as a model does that draws other random numbers from its third step on
        found, buffers = plain(*args)
        calls.append(found)
        return (found if len(calls) < 3 else {name: 2 * part for name, part in found.items()}), buffers

    monkeypatch.setattr(StepLoss, "gradients", otherwise)
    assert run.replays.together(weights) is None
    (end,) = run.replays.weighted(weights)
    assert_close_per_row(end.theta[None], run.replays.alone(weights[0]).theta[None], 1e-13)


def test_derivatives_of_parameters_and_memory_are_kept_apart():
    class Summing(uw.OptimizerRule):
        slots = ("trace",)

        def moved(
            self, theta, memory, g, count, at
        ):  # one derivative for theta and memory alike, which autograd shares
            return theta + memory[0], (-at["lr"] * g,)

    class Delayed(torch.optim.SGD):
        pass

    uw.register_optimizer("Delayed", lambda group: Summing())
    try:
        check(trained(partial(Delayed, lr=0.1)))
    finally:
        del KNOWN["Delayed"]


def test_the_model_and_the_random_numbers_of_the_user_stay_as_they_are():
    model = network()
    before, streams = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    run = uw.TrainingRun.train(model, F.cross_entropy, data(), optimizer=sgd(), epochs=1, batch_size=8)
    _ = run.end, run.derivatives(run.problem.test_gradients(data()))
    assert model.training
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in before.items())
    assert torch.equal(streams, torch.get_rng_state())


def test_runs_without_a_seed_begin_with_the_random_numbers_as_they_stand():
    torch.manual_seed(5)
    batches = [torch.arange(8), torch.arange(8, 16)]
    run = uw.TrainingRun(network(), F.cross_entropy, data(), optimizer=sgd(), batches=batches)
    X, y = data()
    model = network()
    optimizer = sgd()(model.parameters())
    for rows in batches:
        optimizer.zero_grad()
        F.cross_entropy(model(X[rows]), y[rows]).backward()
        optimizer.step()
    flat = torch.cat([value.detach().flatten() for value in model.parameters()])
    assert_close_per_row(run.end.theta[None], flat[None], 1e-13)
    check(run)


def test_what_was_cut_off_goes_on_to_the_same_bytes(tmp_path, monkeypatch):
    run, test = trained(sgd(momentum=0.9)), data(n=4, seed=1)
    v = run.problem.test_gradients(test)
    whole = run.derivatives(v)
    calls: list[int] = []

    def counting(stop: int | None) -> Any:
        def counted(*args: Any) -> Any:
            calls.append(len(calls))
            if len(calls) == stop:
                raise KeyboardInterrupt
            return pulled_back(*args)

        return counted

    where = "upweight.training.run.pulled_back"
    monkeypatch.setattr(where, counting(stop=8))
    with pytest.raises(KeyboardInterrupt):
        run.derivatives(v, tmp_path)
    calls.clear()
    monkeypatch.setattr(where, counting(stop=None))
    assert torch.equal(run.derivatives(v, tmp_path), whole)
    assert 0 < len(calls) < len(run.steps)
    calls.clear()
    assert torch.equal(run.derivatives(v, tmp_path), whole)
    assert not calls


def test_equal_runs_have_equal_fingerprints_and_others_have_others():
    one = trained().fingerprint()
    assert trained().fingerprint() == one
    for other in (trained(seed=4), trained(sgd(lr=0.2)), trained(clip=1.0), trained(removal="lowered")):
        assert other.fingerprint() != one


def test_a_replay_that_ends_elsewhere_is_refused():
    run = trained()
    batches = [step.index for step in run.steps]
    with pytest.raises(uw.InfluenceError, match=r"ends? in the trained weights, but .*learning rates"):
        uw.TrainingRun(
            network(),
            F.cross_entropy,
            data(),
            optimizer=sgd(lr=0.2),
            batches=batches,
            seed=3,
            trained=run.model,
        )


@pytest.mark.parametrize(
    ("fields", "error", "words"),
    [
        ({"batches": []}, ValueError, "batches is empty"),
        ({"batches": [torch.tensor([0, 99])]}, ValueError, "names example 99, and there are 24"),
        ({"batches": [torch.tensor([0.5])]}, ValueError, "numbers of its training examples"),
        ({"schedule": [1.0, 2.0]}, ValueError, "2 numbers, and there are 1 steps"),
        ({"removal": "no"}, ValueError, "kept"),
        ({"accumulation": "no"}, ValueError, "together"),
        ({"optimizer": torch.optim.LBFGS}, TypeError, "register_optimizer"),
        ({"optimizer": lambda p: None}, TypeError, "function from parameters"),
        ({"weights": [1.0]}, ValueError, "24"),
    ],
)
def test_bad_input_gets_a_sentence(fields, error, words):
    known = {"optimizer": sgd(), "batches": [torch.arange(4)]}
    with pytest.raises(error, match=words):
        uw.TrainingRun(network(), F.cross_entropy, data(), **{**known, **fields})


def test_an_optimiser_can_be_taught():
    class SignSGD(torch.optim.SGD):
        pass

    class Tempered(uw.OptimizerRule):
        def moved(self, theta, memory, g, count, at):
            return theta - at["lr"] * g.tanh(), memory

    uw.register_optimizer("SignSGD", lambda group: Tempered())
    try:
        run = trained(partial(SignSGD, lr=0.1))
        check(run)
    finally:
        del KNOWN["SignSGD"]
    with pytest.raises(TypeError, match="function from a parameter group"):
        uw.register_optimizer("SignSGD", 3)


def test_parameter_groups_have_their_own_settings():
    def grouped(model: Any) -> torch.optim.Optimizer:
        first, rest = [model[0].weight], [model[0].bias, *model[3].parameters()]
        groups: list[dict[str, Any]] = [{"params": first, "lr": 0.2, "weight_decay": 0.1}, {"params": rest}]
        return torch.optim.AdamW(groups, lr=0.01, weight_decay=0.0)

    model, other, (X, y) = network(), network(), data()
    batches = [torch.arange(9)] * 3
    run = uw.TrainingRun(model, F.cross_entropy, (X, y), optimizer=grouped(model), batches=batches, seed=3)
    made = grouped(other)
    for t in range(3):
        with torch.random.fork_rng():
            torch.manual_seed(3 * 1_000_003 + t)
            made.zero_grad()
            F.cross_entropy(other(X[:9]), y[:9]).backward()
            made.step()
    flat = torch.cat([value.detach().flatten() for value in other.parameters()])
    assert_close_per_row(run.end.theta[None], flat[None], 1e-13)
    check(run)

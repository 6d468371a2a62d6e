"""Copies of models whose forward a library has replaced: they compute with their own parameters."""

import functools
import types
from typing import Any

import torch

from upweight import TrainingRun, Unrolled
from upweight.network.copies import copied


def patched(model: Any) -> Any:
    """The model with a forward that remembers its old one, as libraries put it there."""
    before = model.forward

    @functools.wraps(type(model).forward)
    def forward(self, *args, doubled=False):
        return (2 if doubled else 1) * before(*args)

    model.forward = types.MethodType(forward, model)
    return model


def test_a_copy_computes_with_its_own_parameters():
    torch.manual_seed(0)
    inner = patched(torch.nn.Linear(3, 2))
    for model in (
        patched(torch.nn.Linear(3, 2)),
        torch.nn.Sequential(inner, torch.nn.Tanh()),
        torch.nn.Linear(3, 2),
    ):
        x, other = torch.randn(4, 3), copied(model)
        kept = model(x).clone()
        assert torch.equal(other(x), kept)
        with torch.no_grad():
            for part in other.parameters():
                part.mul_(2)
        assert not torch.allclose(other(x), kept)
        assert torch.equal(model(x), kept)
    twice = copied(patched(torch.nn.Linear(3, 2)))
    torch.testing.assert_close(twice(x, doubled=True), 2 * twice(x))
    assert twice.forward.__name__ == "forward"


def test_a_function_that_remembers_itself_is_copied_once():
    model: Any = torch.nn.Linear(2, 2)

    def deep(x, times=1):
        return model.weight @ x if not times else deep(x, times - 1)

    model.forward = deep
    other: Any = copied(model)
    with torch.no_grad():
        other.weight.mul_(2)
    x = torch.ones(2)
    torch.testing.assert_close(other(x), 2 * model(x))


def test_a_run_of_a_patched_model_is_replayed_and_differentiated():
    torch.manual_seed(1)
    X, y = torch.randn(12, 3, dtype=torch.float64), torch.randn(12, 1, dtype=torch.float64)
    net = torch.nn.Linear(3, 1).double()
    plain, other = copied(net), patched(net)
    runs = [
        TrainingRun.train(
            model,
            lambda outputs, targets: (outputs - targets).square().sum(1),
            (X, y),
            optimizer=functools.partial(torch.optim.SGD, lr=0.05),
            epochs=2,
            batch_size=4,
            seed=0,
        )
        for model in (plain, other)
    ]
    found, wanted = (Unrolled(run).on_loss((X[:2], y[:2])).values for run in runs)
    torch.testing.assert_close(found, wanted)
    assert float(wanted.abs().min()) > 0

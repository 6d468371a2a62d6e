"""Objects that compute other numbers have other words, equal ones equal words, in every process."""

import subprocess
import sys
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import prune

from upweight.runtime.described import described

GAMMA = 1.0


def closed(gamma: Any) -> Any:
    def loss(outputs: Any, targets: Any) -> Any:
        return gamma * (outputs - targets)

    return loss


def reads_a_global(outputs: Any) -> Any:
    return GAMMA * outputs


def calls_another(outputs: Any) -> Any:
    return reads_a_global(outputs)


def with_default(outputs: Any, gamma: float = 1.0) -> Any:
    return gamma * outputs


class Focal:
    factor = 1.0

    def __init__(self, gamma: float) -> None:
        self._gamma = gamma

    def __call__(self, outputs: Any) -> Any:
        return self.scaled(outputs)

    def scaled(self, outputs: Any) -> Any:
        return outputs * self._gamma

    def loss(self, outputs: Any) -> Any:
        return self(outputs)


class Chosen(nn.Module):
    def __init__(self, act: Any, mask: Any = None) -> None:
        super().__init__()
        self.act, self.mask, self.lin = act, mask, nn.Linear(3, 2)

    def forward(self, x: Any) -> Any:
        return self.act(self.lin(x))


class Slotted:
    __slots__ = ("gamma",)

    def __init__(self, gamma: float) -> None:
        self.gamma = gamma


def pruned(amount: float) -> Any:
    model = nn.Sequential(nn.Linear(3, 2))
    prune.l1_unstructured(model[0], "weight", amount)
    return model


def pair() -> dict[str, tuple[Any, Any]]:
    """Twice two things that differ in one point alone."""
    zero, one = torch.zeros(2), torch.ones(2)
    return {
        "a closure": (closed(1.0), closed(2.0)),
        "a tensor in a closure": (closed(zero), closed(one)),
        "an array in a closure": (closed(np.zeros(2)), closed(np.ones(2))),
        "a dict in a closure": (closed({"a": [1, {"b": 2}]}), closed({"a": [1, {"b": 3}]})),
        "a function in a closure": (closed(torch.tanh), closed(torch.relu)),
        "a namespace": (closed(SimpleNamespace(a=1)), closed(SimpleNamespace(a=2))),
        "an argument": (partial(with_default, gamma=1.0), partial(with_default, gamma=2.0)),
        "a number and a word": (closed(1), closed("1")),
        "an attribute": (Focal(1.0), Focal(2.0)),
        "the object of a method": (Focal(1.0).loss, Focal(2.0).loss),
        "a slot": (Slotted(1.0), Slotted(2.0)),
        "code": (lambda o: o * 2, lambda o: o + 2),
        "code inside": (lambda o: (lambda: o * 2)(), lambda o: (lambda: o + 2)()),
        "activations": (nn.Sequential(nn.Tanh()), nn.Sequential(nn.ReLU())),
        "functions of a module": (Chosen(torch.tanh), Chosen(F.relu)),
        "a tensor of a module": (Chosen(torch.tanh, zero), Chosen(torch.tanh, one)),
        "a setting of a layer": (nn.Softplus(1.0), nn.Softplus(2.0)),
        "a mode": (nn.Dropout().train(), nn.Dropout().eval()),
        "the order of layers": (nn.Sequential(nn.ReLU(), nn.Tanh()), nn.Sequential(nn.Tanh(), nn.ReLU())),
        "a hook": (nn.Linear(2, 2), hooked(nn.Linear(2, 2))),
        "pruning": (nn.Sequential(nn.Linear(3, 2)), pruned(0.5)),
    }


def hooked(layer: Any) -> Any:
    layer.register_forward_hook(lambda module, args, output: 2 * output)
    return layer


@pytest.mark.parametrize("kind", pair())
def test_what_differs_has_other_words(kind):
    (a, b), (again, _) = pair()[kind], pair()[kind]
    assert described(a, state=False) != described(b, state=False)
    assert [*described(a, state=False).values()] == [*described(again, state=False).values()]
    assert "0x" not in repr(described(a)) + repr(described(b))


def test_globals_are_read_where_functions_read_them(monkeypatch):
    words = described(reads_a_global), described(calls_another), described(with_default)
    monkeypatch.setitem(globals(), "GAMMA", 2.0)
    assert words[0] != described(reads_a_global)
    assert words[1] != described(calls_another)
    assert words[2] == described(with_default)


def test_methods_and_class_attributes_count(monkeypatch):
    before = described(Focal(1.0))
    monkeypatch.setattr(Focal, "factor", 2.0)
    assert described(Focal(1.0)) != before
    monkeypatch.undo()
    monkeypatch.setattr(Focal, "scaled", lambda self, outputs: outputs)
    assert described(Focal(1.0)) != before


def test_numbers_of_modules_count_where_they_are_asked_for():
    a, b = nn.Linear(2, 2), nn.Linear(2, 2)
    assert described(a) != described(b)
    assert described(a, state=False) == described(b, state=False)
    assert described(a, state=False) != described(nn.Linear(2, 3), state=False)


def test_what_goes_round_in_circles_ends():
    ring: list[Any] = []
    ring.append(ring)
    model = Chosen(torch.tanh)
    model.act = model.forward
    deep: Any = 1
    for _ in range(100):
        deep = [deep]
    for thing in (
        ring,
        model,
        deep,
        described,
        sys,
        print,
        nn.Linear,
        torch.Generator(),
        {3, 1, 2},
        object(),
    ):
        assert described(thing)
        assert "0x" not in repr(described(thing))


PROGRAM = """
import torch
from torch import nn
from torch.nn import functional as F
from upweight.runtime.described import described

SCALE = {"b": 2.0, "a": frozenset(["x", "y", "z", "w"])}
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.words = {"one", "two", "three"}
        self.layers = nn.TransformerEncoderLayer(8, 2, activation=F.gelu)
    def forward(self, x):
        return self.layers(x) * SCALE["b"]
def loss(o, y, reduction="none"):
    return F.cross_entropy(o, y, reduction=reduction) * SCALE["b"]
print(sorted(described(Net(), state=False).items()), sorted(described(loss).items()))
"""


def test_words_are_equal_in_every_process():
    said = {
        subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True).stdout
        for _ in range(2)
    }
    assert len(said) == 1
    assert "gelu" in said.pop()

"""Threads that ask at once get the answers of threads that ask one after the other, and nothing stays behind."""

import threading
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tests.support.cases import draw
from upweight import ConjugateGradient, GaussNewton, Influence, Problem
from upweight.runtime.alone import ALONE, alone

X, Y = draw(300, 4, 3).float(), torch.arange(300) % 3


class Flattened(nn.Module):
    """Takes its examples' positions together, so that products run in forward mode."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.layers = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 3))

    def forward(self, x: Any) -> Any:
        return self.layers(x.flatten(0, 1)).view(len(x), -1, 3).mean(1)


def in_threads(work: Any, count: int) -> list[Any]:
    """What `work` gives for 0, 1, ... in as many threads at once, or the exception."""
    found: list[Any] = [None] * count
    together = threading.Barrier(count)

    def run(k: int) -> None:
        together.wait()
        try:
            found[k] = work(k)
        except Exception as error:
            found[k] = error

    threads = [threading.Thread(target=run, args=(k,)) for k in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


@pytest.mark.parametrize("shared", [False, True], ids=["an influence each", "one influence"])
def test_answers_in_threads_are_those_of_one(shared):
    def made(k: int) -> Influence:
        problem = Problem(Flattened(k), F.cross_entropy, (X, Y), l2=0.01)
        solver = ConjugateGradient(rtol=1e-4)
        return Influence(problem, curvature=GaussNewton(problem, 0.01), solver=solver)

    test = X[:4], Y[:4]
    asked = [made(0)] * 3 if shared else [made(k) for k in range(3)]
    right = [made(0 if shared else k).on_loss(test).values for k in range(3)]
    switches = torch.backends.mha.get_fastpath_enabled(), torch._C._get_mkldnn_enabled()
    for _ in range(5):
        found = in_threads(lambda k: asked[k].on_loss(test).values, 3)
        for values, wanted in zip(found, right, strict=True):
            assert not isinstance(values, Exception), repr(values)
            assert (values - wanted).norm() <= 1e-5 * wanted.norm()
    assert (torch.backends.mha.get_fastpath_enabled(), torch._C._get_mkldnn_enabled()) == switches
    for influence in asked:
        assert isinstance(influence.problem, Problem)
        model = influence.problem.evaluation.model
        assert all(isinstance(value, nn.Parameter) for value in model.parameters())


def test_problems_are_made_in_threads():
    models = [Flattened(k) for k in range(3)]
    found = in_threads(lambda k: Problem(models[k], F.cross_entropy, (X, Y)).gradient(), 3)
    for k, gradient in enumerate(found):
        assert torch.equal(gradient, Problem(models[k], F.cross_entropy, (X, Y)).gradient())


def test_who_is_alone_may_call_another_and_others_wait():
    inside, outside = [], []

    @alone
    def inner() -> None:
        other = threading.Thread(target=lambda: outside.append(ALONE.acquire(blocking=False)))
        other.start()
        other.join()
        inside.append(True)

    alone(inner)()
    assert inside == [True]
    assert outside == [False]
    with pytest.raises(ValueError, match="wrong"):
        alone(lambda: (_ for _ in ()).throw(ValueError("wrong")))()
    assert ALONE.acquire(blocking=False)
    ALONE.release()

"""How outputs of a batch come about, and models and losses that no example has for itself."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.support.small_models import all_products, close, make, rows_of
from upweight import Problem
from upweight.network.evaluation import with_strategy
from upweight.runtime.fallback import attempt


class Branches(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 3).double()

    def forward(self, x):
        if len(x) != 1:
            raise RuntimeError("one at a time")
        return self.linear(x) * (2.0 if x.sum().item() > 0 else 1.0)


def branching_loss(outputs, targets):
    if len(outputs) != 1:
        raise RuntimeError("one at a time")
    loss = F.cross_entropy(outputs, targets)
    return loss * 3 if loss.item() > 1 else loss


@pytest.mark.parametrize("kind", ["loss", "model"])
def test_what_cannot_be_vmapped_works_by_the_slower_way(kind):
    model, X, y = make(n=6)
    loss = branching_loss if kind == "loss" else F.cross_entropy
    net = model if kind == "loss" else Branches()
    problem = Problem(net, loss, (X, y), l2=0.1)
    assert problem.evaluation.strategy == ("batch" if kind == "loss" else "loop")

    def value(theta, examples=tuple(range(6))):
        params = problem.layout.unpack(theta)
        parts = [
            loss(torch.func.functional_call(net, params, (X[i : i + 1],)), y[i : i + 1]) for i in examples
        ]
        return torch.stack(parts).mean() + 0.05 * theta.square().sum()

    H = torch.autograd.functional.hessian(value, problem.theta)
    rows = rows_of(problem)
    close(problem.hessian.product()(rows), rows @ H, 1e-9)
    G = problem.train_gradients(torch.arange(len(X)))
    close(G.mean(0), problem.gradient())
    close(all_products(problem, rows), rows @ G.T)
    index = torch.tensor([[0, 1], [2, 2], [5, 3]])
    wanted = [
        torch.autograd.functional.hessian(lambda t, i=i: value(t, i), problem.theta) @ row
        for i, row in zip(index.tolist(), rows, strict=True)
    ]
    close(problem.hessian.minibatch_product(rows, index), torch.stack(wanted), 1e-9)
    assert problem.input_gradients((X, y), rows).shape == (3, *X.shape)
    problem.gauss_newton.product()(rows)


@pytest.mark.parametrize("strategy", ["vmapped", "loop"])
def test_every_strategy_gives_the_losses_of_the_first(strategy):
    model, X, y = make()
    problem = Problem(model, F.cross_entropy, (X, y))
    other = dataclasses.replace(problem.evaluation, strategy=strategy)
    wanted = problem.evaluation.losses(problem.theta, (X, y))
    close(other.losses(problem.theta, (X, y)), wanted)
    close(other.joint_outputs(problem.theta, (X, y)), model(X).detach())
    assert with_strategy(other, problem.theta, (X, y)).strategy == "batch"
    assert other.strategy == strategy


def test_another_precision_is_a_copy():
    model, X, y = make(dtype=torch.float32)
    of = Problem(model, F.cross_entropy, (X, y)).evaluation
    theta = torch.cat([value.detach().flatten() for value in model.parameters()])
    rounded = of.rounded(torch.bfloat16)
    assert (of.autocast, rounded.autocast) == (None, torch.bfloat16)
    assert rounded.call(theta, (X, y)).dtype == torch.float32
    assert not torch.equal(rounded.call(theta, (X, y)), of.call(theta, (X, y)))
    with pytest.raises(dataclasses.FrozenInstanceError):
        of.autocast = torch.bfloat16  # type: ignore[misc]


def test_what_mixes_examples_is_refused():
    model, X, y = make()
    weighted = nn.CrossEntropyLoss(weight=torch.tensor([1.0, 5.0, 1.0], dtype=torch.float64))
    for loss in (weighted, lambda o, y: F.cross_entropy(o - o.mean(0), y)):
        with pytest.raises(ValueError, match="loss mixes examples"):
            Problem(model, loss, (X, y))

    class Mixing(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(4, 3).double()

        def forward(self, x):
            return self.linear(x - x.mean(0) / 2)

    with pytest.raises(ValueError, match="depend on the other examples"):
        Problem(Mixing(), F.cross_entropy, (X, y))


def test_running_out_of_memory_is_not_taken_for_an_unsupported_operation():
    def full():
        raise torch.OutOfMemoryError("full")

    with pytest.raises(torch.OutOfMemoryError):
        attempt(full, lambda: None)

"""How outputs of a batch come about, and models and losses that no example has for itself."""

import copy
import dataclasses
import io
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import prune

from tests.support.cases import draw
from tests.support.compare import assert_close_per_row
from tests.support.small_models import all_products, close, make, rows_of
from upweight import ConjugateGradient, Exact, GaussNewton, Influence, Problem
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


# -- what a call leaves behind -----------------------------------------------------------------------------------------


class Remembers(nn.Module):
    """Keeps what it gave."""

    def __init__(self) -> None:
        super().__init__()
        self.lin, self.calls = nn.Linear(3, 2), 0
        self.last: Any = None

    def forward(self, x):
        self.calls += 1
        self.last = self.lin(x), "given"
        return self.last[0]


def pruned():
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    prune.l1_unstructured(model[0], "weight", 0.4)
    return model


LEAVES = {
    "pruned": pruned,
    "spectral norm": lambda: nn.Sequential(torch.nn.utils.spectral_norm(nn.Linear(3, 2))).eval(),
    "remembers": Remembers,
}


@pytest.mark.parametrize("kind", LEAVES)
def test_a_model_is_as_it_was_after_a_question(kind):
    X, y = draw(20, 3).float(), torch.arange(20) % 2
    model = LEAVES[kind]()
    with torch.no_grad():
        before = model(X)
    problem = Problem(model, F.cross_entropy, (X, y), l2=0.1)
    solver = ConjugateGradient(rtol=1e-3)
    influence = Influence(problem, curvature=GaussNewton(problem, 0.1), solver=solver)
    influence.on_loss((X[:2], y[:2]))
    influence.on_inputs((X[:1], y[:1]), (X[:2], y[:2]))
    assert torch.equal(copy.deepcopy(model)(X), before)
    torch.save(model, io.BytesIO())


@pytest.mark.parametrize("where", ["model", "loss"])
def test_who_writes_into_its_inputs_writes_into_a_copy(where):
    class Writes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.lin = nn.Linear(3, 2).double()

        def forward(self, x):
            return self.lin(x.mul_(2) if where == "model" else 2 * x)

    def loss(outputs, targets):
        return F.cross_entropy(outputs, targets.sub_(1) if where == "loss" else targets - 1)

    X, y = draw(20, 3), torch.arange(20) % 2 + 1
    held = X.clone(), y.clone()
    problem = Problem(Writes(), loss, (X, y), l2=0.1)
    scores = Influence(problem).on_loss((X[:2], y[:2]))
    assert torch.equal(X, held[0])
    assert torch.equal(y, held[1])
    model = nn.Linear(3, 2).double()
    model.load_state_dict(Writes().lin.state_dict())
    plain = Problem(model, F.cross_entropy, (2 * X, y - 1), l2=0.1)
    assert_close_per_row(scores.values, Influence(plain).on_loss((2 * X[:2], y[:2] - 1)).values, 1e-10)


# -- losses of models that are sure ------------------------------------------------------------------------------------


def sure_network(seed: int) -> tuple[torch.nn.Module, Any]:
    """A float32 network that was trained until it is sure of most of its 40 examples: p - 1 is below rounding."""
    torch.manual_seed(seed)
    model = torch.nn.Sequential(torch.nn.Linear(3, 6), torch.nn.Tanh(), torch.nn.Linear(6, 3))
    X = torch.randn(40, 3)
    y = (X[:, 0] > 0).long() + (X[:, 1] > 0.3).long()
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=300, line_search_fn="strong_wolfe")

    def step() -> torch.Tensor:
        optimizer.zero_grad()
        value = F.cross_entropy(model(X), y) + 1e-6 * sum(p.square().sum() for p in model.parameters())
        value.backward()
        return value

    optimizer.step(step)
    return model, (X, y)


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("loss", [F.cross_entropy, torch.nn.CrossEntropyLoss()])
def test_a_float32_network_that_is_sure_has_the_effects_of_its_float64_twin(loss: Any, seed: int) -> None:
    model, (X, y) = sure_network(seed)
    single = Problem(model, loss, (X, y), l2=1e-3)
    double = Problem(copy.deepcopy(model).double(), loss, (X.double(), y), l2=1e-3)
    assert float(double.evaluate((X.double(), y)).median()) < 1e-4
    answers = []
    for problem, inputs in ((single, X), (double, X.double())):
        influence = Influence(problem, curvature=GaussNewton(problem, 1e-3), solver=Exact())
        answers.append((influence.on_loss((inputs[:10], y[:10])).values, influence.on_self().values[:, None]))
    for mine, wanted in zip(*answers, strict=True):
        assert_close_per_row(mine, wanted, 1e-3)


def test_a_loss_that_takes_no_float64_keeps_its_own_precision() -> None:
    model, (X, y) = sure_network(0)
    weight = torch.tensor([1.0, 2.0, 3.0])

    def weighted(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(outputs, targets, weight=weight, reduction="sum")

    problem = Problem(model, weighted, (X, y), l2=1e-3)
    wanted = F.cross_entropy(model(X), y, weight=weight, reduction="none").detach()
    assert float((problem.evaluate((X, y)) - wanted).abs().max()) < 1e-6

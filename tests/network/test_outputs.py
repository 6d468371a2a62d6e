"""Outputs that are not tensors alone: the loss gets what the model gave, and answers are those of the tensors."""

import dataclasses
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils._pytree import tree_flatten, tree_map

from tests.support.cases import draw
from tests.support.compare import assert_close_per_row
from upweight import EKFAC, ConjugateGradient, GaussNewton, Hessian, Influence, Overall, Problem
from upweight.network.outputs import Held, held, opened

X, Y = draw(30, 4), torch.arange(30) % 3
TEST = X[:3], Y[:3]


@dataclasses.dataclass
class Found:
    logits: Any
    kind: str
    inner: Any = None


FORMS = {
    "logits, None": (lambda x: (x, None), lambda o: o[0]),
    "words beside": (lambda x: {"logits": x, "name": "net", "size": 3}, lambda o: o["logits"]),
    "a dataclass": (lambda x: Found(x, "net"), lambda o: o.logits),
    "inside one another": (lambda x: [Found(None, "net", {"a": (x, None)})], lambda o: o[0].inner["a"][0]),
    "a namespace": (lambda x: SimpleNamespace(logits=x), lambda o: o.logits),
    "a namespace beside": (lambda x: (SimpleNamespace(logits=x, loss=None), 1), lambda o: o[0].logits),
}


class Net(nn.Module):
    def __init__(self, form: Any) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers, self.form = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double(), form

    def forward(self, x: Any) -> Any:
        return self.form(self.layers(x))


@pytest.mark.parametrize("kind", FORMS)
def test_what_is_no_tensor_changes_no_answer(kind):
    form, logits = FORMS[kind]
    found = Problem(Net(form), lambda o, y: F.cross_entropy(logits(o), y), (X, Y), l2=0.1)
    plain = Problem(Net(lambda x: x), F.cross_entropy, (X, Y), l2=0.1)
    assert found.evaluation.strategy == plain.evaluation.strategy == "batch"
    for kind_of in (Hessian, GaussNewton):
        for solver in (None, ConjugateGradient(rtol=1e-10)):
            a, b = (Influence(p, curvature=kind_of(p, 0.5), solver=solver) for p in (found, plain))
            assert_close_per_row(a.on_loss(TEST).values, b.on_loss(TEST).values, 1e-8)
    own, wanted = (Influence(p, curvature=EKFAC(p, 0.1)).on_self().values for p in (found, plain))
    assert_close_per_row(own, wanted, 1e-10)
    assert torch.allclose(
        found.evaluate(TEST, Overall(lambda o, y: logits(o).mean())),
        plain.evaluate(TEST, Overall(lambda o, y: o.mean())),
    )


@pytest.mark.parametrize("kind", FORMS)
def test_held_outputs_come_out_as_they_went_in(kind):
    form, logits = FORMS[kind]
    outputs = form(X)
    taken = held(outputs)
    assert isinstance(taken, Held)
    assert all(isinstance(leaf, torch.Tensor) for leaf in tree_flatten(taken)[0])
    assert logits(opened(taken)) is X
    assert torch.equal(logits(opened(tree_map(lambda leaf: 2 * leaf, taken))), 2 * X)
    assert tree_flatten(taken)[1] == tree_flatten(held(form(2 * X)))[1]
    assert held((X, [Y])) == (X, [Y]) or held((X, [Y]))[0] is X


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_a_loss_in_another_precision(dtype):
    model, data = Net(lambda x: x).float(), (X.float(), Y)
    test = data[0][:3], data[1][:3]
    problem = Problem(model, lambda o, y: F.cross_entropy(o.to(dtype), y), data, l2=0.1)
    plain = Problem(model, F.cross_entropy, data, l2=0.1)
    for kind in (GaussNewton, EKFAC) if dtype == torch.float64 else (GaussNewton,):
        a, b = (Influence(p, curvature=kind(p, 0.1)).on_loss(test).values for p in (problem, plain))
        assert_close_per_row(a, b, 1e-3 if dtype == torch.float64 else 0.1)


def test_a_model_that_computes_in_less_than_its_parameters():
    """As LoRA on a base in bfloat16, peft's default, and autocast inside of the model."""

    class Adapted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.base = nn.Linear(4, 3).bfloat16().requires_grad_(False)
            self.low, self.up = nn.Linear(4, 2, bias=False), nn.Linear(2, 3, bias=False)

        def forward(self, x: Any) -> Any:
            with torch.autocast("cpu", torch.bfloat16):
                return self.base(x.bfloat16()) + self.up(self.low(x))

    data = X.float(), Y
    problem = Problem(Adapted(), F.cross_entropy, data, l2=0.1)
    assert problem.dtype == torch.float32

    class Exact(Adapted):
        def forward(self, x: Any) -> Any:
            base = F.linear(x, self.base.weight.float(), self.base.bias.float())
            return base + self.up(self.low(x))

    exact = Exact()
    plain = Problem(exact, F.cross_entropy, data, l2=0.1)
    for kind in (GaussNewton, EKFAC):
        a, b = (
            Influence(p, curvature=kind(p, 0.1)).on_loss((data[0][:3], Y[:3])).values
            for p in (problem, plain)
        )
        assert_close_per_row(a, b, 0.1)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_questions_inside_no_grad_and_inference_mode(mode):
    plain = Problem(Net(lambda x: x), F.cross_entropy, (X, Y), l2=0.1)
    with mode():
        data = X.clone(), Y.clone()
        model = Net(lambda x: x)
        problem = Problem(model, F.cross_entropy, data, l2=0.1)
        influence = Influence(
            problem, curvature=GaussNewton(problem, 0.1), solver=ConjugateGradient(rtol=1e-10)
        )
        found = influence.on_loss((data[0][:3], data[1][:3])).values
        own = Influence(problem, curvature=EKFAC(problem, 0.1)).on_self().values
        moved = influence.on_inputs((data[0][:1], data[1][:1]), (data[0][:3], data[1][:3]))
        gradient = problem.gradient()
    influence = Influence(plain, curvature=GaussNewton(plain, 0.1), solver=ConjugateGradient(rtol=1e-10))
    assert_close_per_row(found, influence.on_loss(TEST).values, 1e-8)
    assert_close_per_row(own, Influence(plain, curvature=EKFAC(plain, 0.1)).on_self().values, 1e-10)
    assert torch.allclose(moved, influence.on_inputs((X[:1], Y[:1]), TEST))
    assert torch.allclose(gradient, plain.gradient())


def test_sparse_and_bounded_embeddings():
    words = torch.arange(60).view(30, 2) % 7

    def net(**settings: Any) -> Any:
        torch.manual_seed(0)
        table = nn.Embedding(7, 4, **settings)
        table.weight.data *= 0.1
        return nn.Sequential(table, nn.Flatten(), nn.Linear(8, 3)).double()

    plain = Problem(net(), F.cross_entropy, (words, Y), l2=0.1)
    wanted = Influence(plain, curvature=GaussNewton(plain, 0.1)).on_loss((words[:3], Y[:3])).values
    for settings in ({"sparse": True}, {"max_norm": 1.0}):
        model = net(**settings)
        problem = Problem(model, F.cross_entropy, (words, Y), l2=0.1)
        found = Influence(problem, curvature=GaussNewton(problem, 0.1)).on_loss((words[:3], Y[:3])).values
        assert_close_per_row(found, wanted, 1e-10)
        assert (model[0].sparse, model[0].max_norm) == (
            settings.get("sparse", False),
            settings.get("max_norm"),
        )
    with pytest.raises(ValueError, match=r"0 has rows of norm .* and max_norm=0\.01, so each call changes"):
        Problem(net(max_norm=0.01), F.cross_entropy, (words, Y))

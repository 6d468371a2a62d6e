"""`Problem` against closed forms; what it takes, what it refuses, and what tells that it is still the same one."""

import copy
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

from tests.support.small_models import all_products, close, dense_hessian, make, rows_of
from upweight import EKFAC, ConjugateGradient, GaussNewton, Influence, LinearProblem, Problem, Softmax
from upweight.errors import NotDeterministicError, StaleError
from upweight.measures import OfParameters, Overall, logit
from upweight.runtime.described import described


@pytest.mark.parametrize("keep", ["mean", "total"])
def test_a_linear_layer_equals_the_closed_form(keep):
    torch.manual_seed(0)
    n, d, c = 30, 4, 3
    X, y, w = torch.randn(n, d, dtype=torch.float64), torch.arange(n) % c, torch.rand(n, dtype=torch.float64)
    model = nn.Linear(d, c).double()
    l2 = torch.full((c * d + c,), 0.1, dtype=torch.float64)
    ours = Problem(model, F.cross_entropy, (X, y), l2=l2, weights=w, keep=keep)
    theirs = LinearProblem(
        X, y, model.weight, model.bias.detach(), loss=Softmax(), l2=l2, weights=w, keep=keep
    )
    rows, index = rows_of(ours, 20), torch.tensor([3, 0, 3, 29])
    test = X[:5] + 1, y[:5]
    close(ours.gradient(), theirs.gradient())
    close(ours.train_losses(), theirs.train_losses())
    close(ours.train_gradients(index), theirs.train_gradients(index))
    close(ours.gradients_as_train(test), theirs.gradients_as_train(test))
    for k in (2, 20):  # forward mode, then gradients and one product
        got, wanted = ([v for _, v in p.products(rows[:k])] for p in (ours, theirs))
        close(torch.cat(got, 1), torch.cat(wanted, 1))
    close(ours.hessian.product()(rows), theirs.hessian.product()(rows))
    close(ours.gauss_newton.product()(rows), theirs.hessian.product()(rows))
    close(ours.hessian.matrix(), theirs.hessian.matrix())
    close(ours.input_gradients(test, rows), theirs.input_gradients(test, rows))
    samples = torch.randint(0, n, (20, 4))
    for second in (ours.hessian, ours.gauss_newton):
        close(second.minibatch_product(rows, samples), theirs.hessian.minibatch_product(rows, samples))
    measures = [
        None,
        logit,
        Overall(lambda o, y: o.square().mean()),
        OfParameters(lambda p: p["weight"][0, 1]),
    ]
    for measure in measures:
        close(ours.evaluate(test, measure), theirs.evaluate(test, measure))
        close(ours.test_gradients(test, measure), theirs.test_gradients(test, measure))
    close(ours.subset(index).gradient(), theirs.subset(index).gradient())


class Mapped(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x, labels):
        return {"logits": self.inner(x)}


def test_mappings_datasets_and_loaders_give_the_same():
    model, X, y = make()
    wanted = Problem(model, F.cross_entropy, (X, y), batch_size=5)
    rows = rows_of(wanted)
    dataset = TensorDataset(X, y)
    others = [
        Problem(model, F.cross_entropy, dataset, batch_size=5),
        Problem(model, F.cross_entropy, DataLoader(dataset, batch_size=3)),
        Problem(model, nn.CrossEntropyLoss(reduction="sum"), (X.numpy(), y.tolist())),
        Problem(Mapped(model), lambda o, b: F.cross_entropy(o["logits"], b["labels"]), {"x": X, "labels": y}),
    ]
    for problem in others:
        close(problem.gradient(), wanted.gradient())
        close(problem.hessian.product()(rows), wanted.hessian.product()(rows))
        close(problem.gauss_newton.product()(rows), wanted.gauss_newton.product()(rows))
        index = torch.tensor([2, 1])
        close(problem.train_gradients(index), wanted.train_gradients(index))
        batch = problem.train_batch(index)
        close(problem.input_gradients(batch, rows), wanted.input_gradients((X[index], y[index]), rows))
        assert len(problem.fingerprint()) == len(wanted.fingerprint())
    assert wanted.fingerprint() != Problem(model, F.cross_entropy, (X + 1, y)).fingerprint()


def test_shared_and_chosen_parameters():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.encode, self.decode = nn.Linear(3, 3).double(), nn.Linear(3, 3).double()
            self.decode.weight = self.encode.weight

        def forward(self, x):
            return self.decode(torch.tanh(self.encode(x)))

    torch.manual_seed(0)
    model, X, y = Tied(), torch.randn(9, 3, dtype=torch.float64), torch.arange(9) % 3
    problem = Problem(model, F.cross_entropy, (X, y))
    assert problem.p == 15
    H = dense_hessian(problem, model, X, y)
    close(problem.hessian.matrix(), H, 1e-9)
    some = Problem(model, F.cross_entropy, (X, y), params=["*.bias"])
    assert some.layout.names == ("encode.bias", "decode.bias")
    keep = [*range(9, 12), *range(12, 15)]
    close(some.hessian.matrix(), H[keep][:, keep], 1e-9)


@pytest.mark.parametrize("kind", ["cnn", "mlp"])
def test_batch_size_changes_nothing(kind):
    model, X, y = make(kind, n=5)

    def answers(size):
        problem = Problem(model, F.cross_entropy, (X, y), l2=0.1, batch_size=size)
        rows = rows_of(problem)
        test = problem.input_gradients((X, y), rows), problem.test_gradients((X, y))
        products = all_products(problem, rows), problem.hessian.product()(rows)
        return [problem.gradient(), problem.train_losses(), *products, *test]

    wanted = answers(None)
    for size in range(1, 6):
        for found, want in zip(answers(size), wanted, strict=True):
            close(found, want)


def test_what_it_says_of_itself():
    model, X, y = make()
    problem = Problem(model, F.cross_entropy, (X, y), l2=0.1)
    facts = problem.facts
    assert (facts.n, facts.p, facts.c) == (12, problem.p, 3)
    assert (facts.convex, facts.linear, facts.closed_form) == (False, False, False)
    assert problem.linear is None
    assert problem.gauge is None
    assert problem.remarks == ()
    assert problem.precisions == (torch.float64,)
    assert Problem(nn.Linear(4, 3).double(), F.cross_entropy, (X, y)).facts.linear


@pytest.mark.parametrize("bent", ["outputs", "loss"])
def test_a_linear_layer_is_linear_only_with_a_convex_loss(bent):
    model, X, y = nn.Linear(4, 3).double(), make()[1], make()[2]
    if bent == "outputs":
        problem = Problem(nn.Sequential(model, nn.Tanh()), F.cross_entropy, (X, y))
    else:
        problem = Problem(model, lambda o, y: -F.cross_entropy(o, y), (X, y))
    assert not problem.facts.linear


def test_the_model_is_never_modified():
    model, X, y = make()
    before = {name: value.clone() for name, value in model.state_dict().items()}

    def fails(outputs, targets):
        raise KeyError("no")

    problem = Problem(model, F.cross_entropy, (X, y))
    with pytest.raises(KeyError):
        problem.evaluate((X, y), fails)
    with pytest.raises(ValueError, match="KeyError"):
        Problem(model, fails, (X, y))
    problem.hessian.product()(rows_of(problem))
    problem.test_gradients((X, y))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(value.grad is None for value in model.parameters())
    problem.check_current()
    gradient = problem.gradient()
    with torch.no_grad():
        model.state_dict()["0.weight"].add_(1)
    assert torch.equal(problem.gradient(), gradient)
    with pytest.raises(StaleError, match=r"0\.weight"):
        problem.check_current()


# -- it does not change ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "field", ["theta", "weights", "evaluation", "data", "memory", "autocast", "n", "novelty"]
)
def test_a_field_cannot_be_set(field):
    model, X, y = make()
    problem = Problem(model, F.cross_entropy, (X, y))
    with pytest.raises(AttributeError, match=rf"'{field}' cannot be set.*changed"):
        setattr(problem, field, None)


def test_copies_take_nothing_along_that_was_computed():
    model, X, y = make()
    problem = Problem(model, F.cross_entropy, (X, y), l2=0.1)
    weights = torch.linspace(0.5, 1.5, 12).double()
    before = problem.gradient(), problem.layers.together, problem.facts, problem.fingerprint()
    copy = problem.changed(weights=weights, l2=0.2, keep="total")
    fresh = Problem(model, F.cross_entropy, (X, y), l2=0.2, weights=weights, keep="total")
    rows = rows_of(problem)
    assert copy.fingerprint() == fresh.fingerprint() != before[3]
    assert torch.equal(copy.gradient(), fresh.gradient())
    assert torch.equal(copy.gauss_newton.matrix(), fresh.gauss_newton.matrix())
    assert torch.equal(all_products(copy, rows), all_products(fresh, rows))
    assert copy.memory is problem.memory  # block sizes are learnt once
    assert torch.equal(problem.gradient(), before[0])
    subset = copy.subset(torch.tensor([3, 1]))
    assert subset.n == 2
    assert torch.equal(subset.weights, weights[[3, 1]])
    assert subset.facts.n == 2
    with pytest.raises(ValueError, match="at least one example"):
        problem.subset(torch.tensor([], dtype=torch.long))


def test_other_parameters_are_those_of_a_model_with_them():
    model, X, y = make("cnn")
    problem = Problem(model, F.cross_entropy, (X, y), l2=0.1)
    assert problem.layers.together  # which a copy must not keep, nor the gradient
    assert bool(problem.gradient().isfinite().all())
    moved = problem.theta + 0.1
    copy = problem.changed(theta=moved)
    copy.check_current()  # the live model is still the one that the problem was made of
    torch.nn.utils.vector_to_parameters(moved, model.parameters())
    fresh = Problem(model, F.cross_entropy, (X, y), l2=0.1)
    assert torch.equal(copy.gradient(), fresh.gradient())
    assert torch.equal(copy.test_gradients((X, y)), fresh.test_gradients((X, y)))
    assert torch.equal(copy.hessian.matrix(), fresh.hessian.matrix())
    with pytest.raises(StaleError, match=r"0\.weight"):
        copy.check_current()


class Listed(Dataset[Any]):
    """A dataset of somebody's own, that holds arrays."""

    def __init__(self, X: torch.Tensor, y: torch.Tensor):
        self.X, self.y = X.numpy().copy(), y

    def __len__(self) -> int:
        return len(self.X)

    def __getitem__(self, i: int) -> Any:
        return torch.from_numpy(self.X[i].copy()), self.y[i]


def moved_by(kind: str) -> tuple[Problem, Any, Any]:
    """A problem, what changes its data in place, and what changes them back."""
    model, X, y = make()
    X = X.clone()
    if kind == "array":
        array = X.numpy()
        problem = Problem(model, F.cross_entropy, (array, y))
        return problem, lambda: np.negative(array, out=array), lambda: np.negative(array, out=array)
    if kind == "own dataset":
        own = Listed(X, y)
        problem = Problem(model, F.cross_entropy, own)
        return problem, lambda: np.negative(own.X, out=own.X), lambda: np.negative(own.X, out=own.X)
    data: Any = {"tensor": (X, y), "targets": (X, y), "mapping": {"input": X, "y": y}}.get(kind)
    if kind in ("dataset", "loader"):
        data = TensorDataset(X, y)
        data = data if kind == "dataset" else DataLoader(data, batch_size=4)
    loss: Any = F.cross_entropy
    if kind == "mapping":
        inner = model

        class Named(nn.Module):
            def __init__(self):
                super().__init__()
                self.inner = inner

            def forward(self, input, y):
                return self.inner(input)

        model, loss = Named(), lambda o, b: F.cross_entropy(o, b["y"])  # type: ignore[assignment]
    problem = Problem(model, loss, data)
    if kind == "targets":
        return problem, lambda: y[3].add_(1).remainder_(3), lambda: y[3].add_(2).remainder_(3)
    return problem, lambda: X[7].mul_(-1), lambda: X[7].mul_(-1)


@pytest.mark.parametrize(
    "kind", ["tensor", "targets", "array", "mapping", "dataset", "loader", "own dataset"]
)
def test_data_that_moved_in_place_are_noticed(kind):
    problem, move, back = moved_by(kind)
    copies = [problem.changed(l2=0.5), problem.subset(torch.arange(3))]
    problem.check_current()
    move()
    for one in (problem, *copies):
        with pytest.raises(StaleError, match="training data changed in place"):
            one.check_current()
    back()
    problem.check_current()


# -- what it refuses ---------------------------------------------------------------------------------------------------


def nan_at(X, i):
    X = X.clone()
    X[i, 0] = float("nan")
    return X


def test_bad_data_are_refused():
    model, X, y = make()
    dataset = TensorDataset(X, y)
    cases = [
        ((X[:0], y[:0]), ValueError, "train is empty"),
        ((X, y[:5]), ValueError, "12, 5 examples"),
        ((nan_at(X, 7), y), ValueError, "first in example 7"),
        (TensorDataset(nan_at(X, 7), y), ValueError, "first in example 7"),
        ((X.float(), y), TypeError, "torch.float32 numbers, the model has torch.float64"),
        (DataLoader(dataset, shuffle=True), ValueError, "shuffle=False"),
        ((X, y, y), TypeError, "tuple of 3 items"),
        (iter([]), TypeError, "map-style Dataset"),
        (TensorDataset(X), TypeError, "1 items"),
        ((X, y + 3), ValueError, "batch of one example"),
    ]
    for train, error, words in cases:
        with pytest.raises(error, match=words):
            Problem(model, F.cross_entropy, train)


def test_bad_models_and_settings_are_refused():
    model, X, y = make()
    with pytest.raises(ValueError, match=r"model\.eval\(\)"):
        Problem(make()[0].train(), F.cross_entropy, (X, y))
    with pytest.raises(ValueError, match="Dropout"):
        Problem(nn.Sequential(model, nn.Dropout(0.5)), F.cross_entropy, (X, y))
    with pytest.raises(ValueError, match=r"no parameter '0\.wieght'; closest: 0\.weight"):
        Problem(model, F.cross_entropy, (X, y), params=["0.wieght"])
    with pytest.raises(ValueError, match="batch_size"):
        Problem(model, F.cross_entropy, (X, y), batch_size=0)
    with pytest.raises(TypeError, match=r"torch\.nn\.Module"):
        Problem(lambda x: x, F.cross_entropy, (X, y))
    with pytest.raises(TypeError, match="loss must be a function"):
        Problem(model, "cross entropy", (X, y))
    with pytest.raises(ValueError, match="one number per example"):
        Problem(model, F.cross_entropy, (X, y)).evaluate((X, y), lambda o, y: o)
    with torch.no_grad():
        model.state_dict()["3.bias"][1] = float("inf")
    with pytest.raises(ValueError, match=r"'3\.bias' has a NaN"):
        Problem(model, F.cross_entropy, (X, y))


class Noisy(nn.Module):
    """Adds noise once `on`, as a dropout of somebody's own does that `eval` does not reach."""

    def __init__(self):
        super().__init__()
        self.layer, self.on = nn.Linear(3, 2), False

    def forward(self, x):
        return self.layer(x) + (torch.randn(len(x), 2) if self.on else 0.0)


@pytest.mark.parametrize("n", [30, 3000])  # all rows, and a sample of them
def test_a_model_that_draws_is_refused(n: int):
    model = Noisy()
    problem = Problem(model, F.cross_entropy, (torch.randn(n, 3), torch.arange(n) % 2), l2=0.1)
    model.on = True
    with pytest.raises(NotDeterministicError, match="gradients that differ"):
        Influence(problem, curvature=GaussNewton(problem), solver=ConjugateGradient()).on_loss(
            (torch.randn(1, 3), torch.zeros(1).long())
        )


# -- its fingerprint ---------------------------------------------------------------------------------------------------


class Scaled:
    """A loss that is an object."""

    def __call__(self, outputs, targets):
        return 2 * F.cross_entropy(outputs, targets, reduction="none")


def smoothed(outputs, targets, amount):
    return F.cross_entropy(outputs, targets, label_smoothing=amount, reduction="none")


def test_the_fingerprint_knows_the_loss_by_what_it_does():
    torch.manual_seed(0)
    model, train = nn.Linear(3, 2), (torch.randn(6, 3), torch.tensor([0, 1, 0, 1, 1, 0]))

    def fingerprint(loss) -> str:
        return Problem(model, loss, train).fingerprint()

    def scaled_by_two(outputs, targets):
        return 2.0 * F.cross_entropy(outputs, targets, reduction="none")

    def scaled_by_three(outputs, targets):
        return 3.0 * F.cross_entropy(outputs, targets, reduction="none")

    scaled_by_three.__qualname__ = scaled_by_two.__qualname__
    different = [
        F.cross_entropy,
        scaled_by_two,
        scaled_by_three,
        partial(smoothed, amount=0.1),
        partial(smoothed, amount=0.2),
        nn.CrossEntropyLoss(),
        nn.CrossEntropyLoss(label_smoothing=0.1),
        nn.CrossEntropyLoss(torch.tensor([1.0, 2.0]), reduction="none"),
        Scaled(),
    ]
    found = [fingerprint(loss) for loss in different]
    assert len(set(found)) == len(found)
    again = [partial(smoothed, amount=0.1), Scaled(), nn.CrossEntropyLoss()]
    assert [fingerprint(loss) for loss in again] == [found[3], found[8], found[5]]
    assert "0x" not in str([described(loss) for loss in different])


def test_the_fingerprint_knows_the_architecture():
    """Networks of equal weights that compute other numbers, and one that only counts how often it was called."""
    train = torch.randn(6, 3, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 0, 1, 1, 0])

    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lin, self.calls, self.seen = nn.Linear(3, 2), 0, None

        def forward(self, x):
            self.calls, self.seen = self.calls + 1, x.detach()
            return self.lin(x)

    def of(*activation) -> str:
        torch.manual_seed(0)
        return Problem(nn.Sequential(nn.Linear(3, 2), *activation), F.cross_entropy, train).fingerprint()

    found = [of(), of(nn.Tanh()), of(nn.ReLU()), of(nn.Softplus(1.0)), of(nn.Softplus(2.0))]
    assert len(set(found)) == len(found)
    assert found[1] == of(nn.Tanh())
    model = Counting()
    once = Problem(model, F.cross_entropy, train).fingerprint()
    model(train[0][:2])
    assert Problem(model, F.cross_entropy, train).fingerprint() == once


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("curvature", [lambda problem: None, lambda problem: EKFAC(problem, relative=0.1)])
def test_a_model_in_half_precision_is_computed_with_in_float32(dtype, curvature):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).to(dtype)
    X, y = torch.randn(20, 4).to(dtype), torch.arange(20) % 3
    half = Problem(model, F.cross_entropy, (X, y), l2=0.05)
    full = Problem(copy.deepcopy(model).float(), F.cross_entropy, (X.float(), y), l2=0.05)
    mine, right = (Influence(problem, curvature=curvature(problem)) for problem in (half, full))
    close(mine.on_loss((X[:3], y[:3])).values, right.on_loss((X[:3].float(), y[:3])).values, 1e-5)
    assert half.dtype == torch.float32
    assert f"computed in float32: the model's parameters are {str(dtype)[6:]}" in str(mine.settings)
    with torch.no_grad():
        model[0].bias.add_(1)
    with pytest.raises(StaleError, match=r"0\.bias"):
        mine.on_loss((X[:3], y[:3]))


@pytest.mark.filterwarnings("ignore:.*torch.jit")
def test_a_scripted_model_is_refused_with_what_to_give():
    model, X, y = make()
    with pytest.raises(
        TypeError, match=r"scripted or traced module.*give the torch.nn.Module that it was made of"
    ):
        Problem(torch.jit.script(model), F.cross_entropy, (X, y))

"""`Problem` against closed forms, dense double-backward twins and its own slower ways; bad input by its words."""

import warnings
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from upweight import EKFAC, ConjugateGradient, GaussNewton, Influence
from upweight.errors import NotDeterministicError, SmallerBlocksWarning, StaleError
from upweight.linear.problem import LinearProblem
from upweight.losses import Softmax
from upweight.measures import OfParameters, Overall, logit
from upweight.network.modules import in_words
from upweight.network.problem import Problem
from upweight.runtime.fallback import attempt


def close(found, wanted, rtol=1e-10):
    assert found.shape == wanted.shape
    assert float((found - wanted).norm()) <= rtol * float(wanted.norm()), float((found - wanted).norm())


def make(kind="mlp", n=12, dtype=torch.float64):
    """A small model in eval mode with inputs and targets of 3 classes."""
    torch.manual_seed(0)
    if kind == "cnn":
        layers = [nn.Conv2d(1, 2, 3), nn.Tanh(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(8, 3)]
        X = torch.randn(n, 1, 6, 6, dtype=dtype)
    else:
        layers = [nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, 3)]
        X = torch.randn(n, 4, dtype=dtype)
    model = nn.Sequential(*layers).to(dtype)
    if kind == "mlp":
        model(X)  # running statistics that are not the defaults
    return model.eval(), X, torch.arange(n) % 3


def rows_of(problem, k=3):
    return torch.randn(k, problem.p, dtype=problem.dtype, generator=torch.Generator().manual_seed(1))


def dense(problem, model, X, y, weights=None):
    """The Hessian of R by torch.autograd.functional, parameter by parameter of theta."""
    w = torch.ones(len(X), dtype=X.dtype) if weights is None else weights

    def value(theta):
        outputs = torch.func.functional_call(model, problem.layout.unpack(theta), (X,))
        return (F.cross_entropy(outputs, y, reduction="none") * w).mean() + (problem.l2 * theta**2).sum() / 2

    return torch.autograd.functional.hessian(value, problem.theta)


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
    close(ours.operator()(rows), theirs.operator()(rows))
    close(ours.operator(gauss_newton=True)(rows), theirs.operator()(rows))
    close(ours.matrix(), theirs.matrix())
    close(ours.input_gradients(test, rows), theirs.input_gradients(test, rows))
    samples = torch.randint(0, n, (20, 4))
    for gauss_newton in (False, True):
        close(ours.sampled(rows, samples, gauss_newton=gauss_newton), theirs.sampled(rows, samples))
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


@pytest.mark.parametrize("kind", ["cnn", "mlp"])
def test_the_hessian_equals_the_dense_one(kind):
    model, X, y = make(kind)
    w = torch.rand(len(X), dtype=X.dtype)
    problem = Problem(model, F.cross_entropy, (X, y), l2=0.01, weights=w, batch_size=5)
    assert problem.evaluation.strategy == "batch"
    rows = rows_of(problem, problem.p + 2)
    H = dense(problem, model, X, y, w)
    product = problem.operator()
    for _ in range(2):
        close(product(rows), rows @ H, 1e-9)
    close(problem.matrix(), H, 1e-9)


@pytest.mark.parametrize("kind", ["cnn", "mlp"])
def test_gauss_newton_is_the_gauss_newton_matrix(kind):
    model, X, y = make(kind)
    problem = Problem(model, F.cross_entropy, (X, y), l2=0.01, batch_size=5)

    def outputs(theta):
        return torch.func.functional_call(model, problem.layout.unpack(theta), (X,))

    J = torch.autograd.functional.jacobian(outputs, problem.theta)
    q = outputs(problem.theta).softmax(1).detach()
    B = torch.diag_embed(q) - q[:, :, None] * q[:, None]
    G = torch.einsum("bcp,bcd,bdq->pq", J, B, J) / len(X) + 0.01 * torch.eye(problem.p, dtype=X.dtype)
    close(problem.matrix(gauss_newton=True), G, 1e-9)
    assert torch.linalg.eigvalsh(G)[0] > 0


@pytest.mark.parametrize("gauss_newton", [False, True])
def test_all_ways_to_a_product_agree(gauss_newton):
    model, X, y = make("cnn")
    problem = Problem(model, F.cross_entropy, (X, y))
    rows, w = rows_of(problem), torch.rand(len(X), dtype=X.dtype)
    blocks = {mode: problem._block((X, y), w, gauss_newton, mode) for mode in ("forward", "double")}
    wanted = blocks["double"](rows)
    close(blocks["forward"](rows), wanted)
    one_by_one = torch.cat([blocks["double"](row[None]) for row in rows])  # the graph outlives its use
    close(one_by_one, wanted)


@pytest.mark.parametrize("gauss_newton", [False, True])
def test_products_are_the_same_bits_whether_graphs_are_kept_or_not(monkeypatch, gauss_newton):
    model, X, y = make(dtype=torch.float32)
    problem = Problem(model, F.cross_entropy, (X, y), batch_size=5)
    rows = rows_of(problem, 20)
    kept = problem.operator(gauss_newton=gauss_newton)
    monkeypatch.setattr("upweight.network.problem.KEPT_BYTES", 0)
    made = problem.operator(gauss_newton=gauss_newton)
    for _ in range(3):
        assert torch.equal(kept(rows), made(rows))


def test_graphs_are_made_once_from_the_second_product_on(monkeypatch):
    model, X, y = make()
    built = []
    block = Problem._block

    def counted(self, *args):
        built.append(1)
        return block(self, *args)

    monkeypatch.setattr(Problem, "_block", counted)

    def counts(problem):
        built.clear()
        product = problem.operator()
        found = []
        for _ in range(4):
            product(rows_of(problem))
            found.append(len(built))
        return found

    problem = Problem(model, F.cross_entropy, (X, y), batch_size=5)
    assert counts(problem) == [3, 6, 6, 6]
    monkeypatch.setattr("upweight.network.problem.KEPT_BYTES", 0)
    assert counts(problem) == [3, 6, 9, 12]


@pytest.mark.parametrize("kind", ["cnn", "mlp"])
def test_batch_size_changes_nothing(kind):
    model, X, y = make(kind, n=5)

    def answers(size):
        problem = Problem(model, F.cross_entropy, (X, y), l2=0.1, batch_size=size)
        rows = rows_of(problem)
        products = torch.cat([v for _, v in problem.products(rows)], 1)
        test = problem.input_gradients((X, y), rows), problem.test_gradients((X, y))
        return [problem.gradient(), problem.train_losses(), products, problem.operator()(rows), *test]

    wanted = answers(None)
    for size in range(1, 6):
        for found, want in zip(answers(size), wanted, strict=True):
            close(found, want)


def test_input_gradients_equal_differences():
    model, X, y = make("cnn")
    problem = Problem(model, F.cross_entropy, (X, y))
    rows, step = rows_of(problem, 2), 1e-6
    move = torch.randn_like(X[:3])
    found = (problem.input_gradients((X[:3], y[:3]), rows) * move).flatten(2).sum(2)
    ends = [problem.test_gradients((X[:3] + s * move, y[:3])) @ rows.T for s in (step, -step)]
    close(found, (ends[0] - ends[1]).T / (2 * step), 1e-6)


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
        close(problem.operator()(rows), wanted.operator()(rows))
        close(problem.operator(gauss_newton=True)(rows), wanted.operator(gauss_newton=True)(rows))
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
    H = dense(problem, model, X, y)
    close(problem.matrix(), H, 1e-9)
    some = Problem(model, F.cross_entropy, (X, y), params=["*.bias"])
    assert some.layout.names == ("encode.bias", "decode.bias")
    keep = [*range(9, 12), *range(12, 15)]
    close(some.matrix(), H[keep][:, keep], 1e-9)


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True, dropout=0.0)
        self.recurrent = nn.LSTM(4, 3, batch_first=True)

    def forward(self, x):
        return self.recurrent(self.layer(x))[0][:, -1]


def test_attention_and_recurrent_layers_have_second_derivatives():
    torch.manual_seed(0)
    model = Attention().double().eval()
    X, y = torch.randn(4, 3, 4, dtype=torch.float64), torch.tensor([0, 1, 2, 0])
    problem = Problem(model, F.cross_entropy, (X, y))
    rows = rows_of(problem, 2)
    w = torch.ones(4, dtype=torch.float64)
    for gauss_newton in (False, True):
        wanted = problem._block((X, y), w, gauss_newton, "double")(rows) / 4
        close(problem.operator(gauss_newton=gauss_newton)(rows), wanted)
    products = torch.cat([v for _, v in problem.products(rows)], 1)
    close(products, rows @ problem.train_gradients(torch.arange(4)).T)


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
    model = model if kind == "loss" else Branches()
    problem = Problem(model, loss, (X, y), l2=0.1)
    assert problem.evaluation.strategy == ("batch" if kind == "loss" else "loop")

    def value(theta, examples=tuple(range(6))):
        params = problem.layout.unpack(theta)
        parts = [
            loss(torch.func.functional_call(model, params, (X[i : i + 1],)), y[i : i + 1]) for i in examples
        ]
        return torch.stack(parts).mean() + 0.05 * theta.square().sum()

    H = torch.autograd.functional.hessian(value, problem.theta)
    rows = rows_of(problem)
    close(problem.operator()(rows), rows @ H, 1e-9)
    G = problem.train_gradients(torch.arange(len(X)))
    close(G.mean(0), problem.gradient())
    close(torch.cat([v for _, v in problem.products(rows)], 1), rows @ G.T)
    index = torch.tensor([[0, 1], [2, 2], [5, 3]])
    wanted = [
        torch.autograd.functional.hessian(lambda t, i=i: value(t, i), problem.theta) @ row
        for i, row in zip(index.tolist(), rows, strict=True)
    ]
    close(problem.sampled(rows, index), torch.stack(wanted), 1e-9)
    assert problem.input_gradients((X, y), rows).shape == (3, *X.shape)
    problem.operator(gauss_newton=True)(rows)


def test_other_precisions_work():
    for dtype, rtol in ((torch.float32, 1e-4), (torch.bfloat16, 0.1)):
        model, X, y = make("mlp", dtype=torch.float64)
        exact = Problem(model, F.cross_entropy, (X, y))
        problem = Problem(model.to(dtype), F.cross_entropy, (X.to(dtype), y))
        rows = rows_of(exact)
        found = problem.operator()(rows.to(dtype))
        assert found.dtype == dtype
        close(found.double(), exact.operator()(rows), rtol)


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
    problem.operator()(rows_of(problem))
    problem.test_gradients((X, y))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(value.grad is None for value in model.parameters())
    problem.check_current()
    gradient = problem.gradient()
    with torch.no_grad():
        model[0].weight += 1
    assert torch.equal(problem.gradient(), gradient)
    with pytest.raises(StaleError, match=r"0\.weight"):
        problem.check_current()


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


def test_bad_models_losses_and_settings_are_refused():
    model, X, y = make()
    weighted = nn.CrossEntropyLoss(weight=torch.tensor([1.0, 5.0, 1.0], dtype=torch.float64))
    for loss in (weighted, lambda o, y: F.cross_entropy(o - o.mean(0), y)):
        with pytest.raises(ValueError, match="loss mixes examples"):
            Problem(model, loss, (X, y))
    with pytest.raises(ValueError, match=r"model\.eval\(\)"):
        Problem(make()[0].train(), F.cross_entropy, (X, y))
    with pytest.raises(ValueError, match="Dropout"):
        Problem(nn.Sequential(model, nn.Dropout(0.5)), F.cross_entropy, (X, y))

    class Mixing(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(4, 3).double()

        def forward(self, x):
            return self.linear(x - x.mean(0) / 2)

    with pytest.raises(ValueError, match="depend on the other examples"):
        Problem(Mixing(), F.cross_entropy, (X, y))
    with pytest.raises(ValueError, match=r"no parameter '0\.wieght'; closest: 0\.weight"):
        Problem(model, F.cross_entropy, (X, y), params=["0.wieght"])
    with pytest.raises(ValueError, match="batch_size"):
        Problem(model, F.cross_entropy, (X, y), batch_size=0)
    with pytest.raises(TypeError, match=r"torch\.nn\.Module"):
        Problem(lambda x: x, F.cross_entropy, (X, y))
    with pytest.raises(ValueError, match="one number per example"):
        Problem(model, F.cross_entropy, (X, y)).evaluate((X, y), lambda o, y: o)
    with torch.no_grad():
        model[3].bias[1] = float("inf")
    with pytest.raises(ValueError, match=r"'3\.bias' has a NaN"):
        Problem(model, F.cross_entropy, (X, y))


def test_whole_numbers_have_no_input_gradient():
    model = nn.Sequential(nn.Embedding(5, 3), nn.Flatten(), nn.Linear(6, 3)).double()
    tokens, y = torch.tensor([[0, 1], [2, 3], [4, 4]]), torch.tensor([0, 1, 2])
    problem = Problem(model, F.cross_entropy, (tokens, y))
    close(problem.matrix(), dense(problem, model, tokens, y, torch.ones(3, dtype=torch.float64)), 1e-9)
    with pytest.raises(TypeError, match=r"real numbers, got torch\.int64"):
        problem.input_gradients((tokens, y), rows_of(problem))


def test_running_out_of_memory_is_not_taken_for_an_unsupported_operation():
    def full():
        raise torch.OutOfMemoryError("full")

    with pytest.raises(torch.OutOfMemoryError):
        attempt(full, lambda: None)


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
    assert "0x" not in str([in_words(loss) for loss in different])


class Hungry(nn.Module):
    """Fails as torch does for more than a few examples at once, once it is told to."""

    def __init__(self, loose: bool):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 3))
        self.loose = nn.Parameter(torch.ones(8 if loose else 1))
        self.most = 1000

    def forward(self, x):
        if len(x) > self.most:
            torch.empty(1 << 60)
        return self.body(x) * self.loose.sum()


@pytest.mark.parametrize("loose", [True, False])
def test_out_of_memory_means_smaller_blocks_and_the_same_answers(loose):
    torch.manual_seed(0)
    model = Hungry(loose).double()
    train, test = ((torch.randn(n, 4).double(), torch.randint(0, 3, (n,))) for n in (40, 18))
    wanted = Problem(model, F.cross_entropy, train, l2=0.1, batch_size=16)

    eye = torch.eye(wanted.p).double()
    questions = (
        lambda problem: problem.gradient()[None],
        lambda problem: problem.train_losses()[None],
        lambda problem: problem.test_gradients(test),
        lambda problem: problem.train_gradients(torch.arange(40)),
        lambda problem: problem.operator()(eye),
        lambda problem: problem.matrix(gauss_newton=True),
        lambda problem: torch.cat([part for _, part in problem.products(eye)], 1),
        lambda problem: torch.cat([part for _, part in problem.products(eye[:2])], 1),
        lambda problem: EKFAC(problem, 0.1).factor().solve(eye),
    )
    told = 0
    for question in questions:
        model.most = 1000
        expected, found = question(wanted), Problem(model, F.cross_entropy, train, l2=0.1, batch_size=16)
        model.most = 8  # what models are tried on
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            close(question(found), expected)
        assert all("out of memory: going on in blocks of" in str(warning.message) for warning in said)
        told += bool(said)
    assert told >= 6  # what takes one example at a time under vmap has no large block
    model.most = 0
    with pytest.warns(SmallerBlocksWarning), pytest.raises(RuntimeError, match="memory"):
        wanted.gradient()


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

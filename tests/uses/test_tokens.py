"""Influence by tokens: parts add up to the whole, are those of single backward passes, and refits confirm them."""

import functools
from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional as F

from tests.support.compare import assert_close_per_row
from upweight import (
    GaussNewton,
    Hessian,
    Influence,
    LinearProblem,
    Problem,
    Squared,
    losses,
    token_mean,
    token_scores,
)

WORDS, LENGTH, N = 6, 7, 30


class Bigrams(torch.nn.Module):
    """The next word's logits by the last word: convex in the table."""

    def __init__(self) -> None:
        super().__init__()
        self.table = torch.nn.Embedding(WORDS, WORDS, dtype=torch.float64)
        torch.nn.init.zeros_(self.table.weight)

    def forward(self, input_ids: torch.Tensor, labels: torch.Tensor) -> SimpleNamespace:
        return SimpleNamespace(logits=self.table(input_ids))


class OneWay(torch.autograd.Function):
    """Twice the input, without a derivative in forward mode."""

    @staticmethod
    def forward(ctx, x):
        return 2 * x

    @staticmethod
    def backward(ctx, slope):
        return 2 * slope


class OneWayBigrams(Bigrams):
    def forward(self, input_ids: torch.Tensor, labels: torch.Tensor) -> SimpleNamespace:
        return SimpleNamespace(logits=OneWay.apply(self.table(input_ids)))


def texts(seed: int = 0, n: int = N) -> dict[str, torch.Tensor]:
    words = torch.randint(WORDS, (n, LENGTH), generator=torch.Generator().manual_seed(seed))
    labels = words.clone()
    labels[::3, -2:] = -100
    return {"input_ids": words, "labels": labels}


def trained(train: dict[str, torch.Tensor], l2: float = 0.02) -> Problem:
    """Bigrams at the optimum of the sum over tokens."""
    model, loss = Bigrams(), functools.partial(losses.next_token, reduction="sum")
    optimiser = torch.optim.LBFGS(
        model.parameters(),
        max_iter=500,
        tolerance_grad=1e-12,
        tolerance_change=0,
        line_search_fn="strong_wolfe",
    )

    def closure() -> torch.Tensor:
        optimiser.zero_grad()
        value = loss(model(**train), train).mean() + l2 / 2 * model.table.weight.square().sum()
        value.backward()
        return value

    optimiser.step(closure)
    return Problem(model, loss, train, l2=l2)


def head(batch: dict[str, torch.Tensor], m: int) -> dict[str, torch.Tensor]:
    return {name: part[:m] for name, part in batch.items()}


def by_backward_passes(problem: Problem, batch, terms) -> torch.Tensor:
    """The gradient of every term by itself (b, t, p)."""
    of, theta = problem.evaluation, problem.theta.detach().clone().requires_grad_()
    values = terms(of.joint_outputs(theta, batch), batch)
    rows = [torch.autograd.grad(value, theta, retain_graph=True)[0] for value in values.flatten()]
    return torch.stack(rows).view(*values.shape, -1)


@pytest.mark.parametrize("model", [Bigrams, OneWayBigrams])
@pytest.mark.parametrize("loss", ["mean", "sum", "token_mean"])
def test_tokens_are_those_of_single_backward_passes_and_add_up(model, loss):
    train, test = texts(), texts(1, 4)
    torch.manual_seed(0)
    net = model()
    torch.nn.init.normal_(net.table.weight)
    kinds = {"loss": functools.partial(losses.next_token, reduction="sum" if loss == "sum" else "mean")}
    problem = Problem(net, train=train, **(token_mean(train) if loss == "token_mean" else kinds))
    influence = Influence(problem, curvature=GaussNewton(problem, damping=0.05))
    found = token_scores(influence, test, [3, 0, 8])
    terms = functools.partial(losses.token_losses, reduction="mean" if loss == "mean" else "sum")
    solved = influence.solve(problem.test_gradients(test)).value
    batch = {name: part[[3, 0, 8]] for name, part in train.items()}
    each = by_backward_passes(problem, batch, terms) * problem.weights[[3, 0, 8]][:, None, None]
    wanted = -torch.einsum("mp,ktp->mkt", solved.double(), each.double())
    assert_close_per_row(found.values.flatten(1), wanted.flatten(1), 1e-10)
    whole = influence.on_loss(test).values
    assert_close_per_row(found.values.sum(2), whole[:, [3, 0, 8]], 1e-10)
    of_test = token_scores(influence, test, [3, 0, 8], side="test")
    assert_close_per_row(of_test.values.sum(2), whole[:, [3, 0, 8]], 1e-10)
    moves = influence.on_params([3, 0, 8])
    wanted = torch.einsum("kp,mtp->mkt", moves.double(), by_backward_passes(problem, test, terms).double())
    assert_close_per_row(of_test.values.flatten(1), wanted.flatten(1), 1e-10)
    assert bool((found.values[:, :, 0] == 0).all())
    assert bool((found.values[:, 1, -2:] == 0).all())  # of text 0 the last two do not count


def test_a_refit_without_a_token_confirms_its_effect():
    train, test = texts(n=300), texts(1, 5)
    problem = trained(train)
    influence = Influence(problem, curvature=Hessian(problem))
    found = token_scores(influence, test, [3, 0]).effect()
    before = problem.evaluate(test)
    for place, row in enumerate([3, 0]):
        for position in (1, 4):
            without = {name: part.clone() for name, part in train.items()}
            without["labels"][row, position] = -100
            after = trained(without).evaluate(test)
            assert_close_per_row(found[:, place, position][None], (after - before)[None], 0.05)


def test_the_strongest_texts_are_looked_at_and_told():
    train, test = texts(), texts(1, 2)
    problem = trained(train)
    influence = Influence(problem, curvature=Hessian(problem))
    found = token_scores(influence, test, k=2, decode=lambda word: "<abcde"[word])
    line = influence.on_loss(test).values[0]
    assert {int(line.argmax()), int(line.argmin())} <= set(found.rows.tolist())
    table = found.top(3)
    assert table["effect"].abs().is_monotonic_decreasing
    first = table.iloc[0]
    word = int(train["labels"][first["train text"], first["position"]])
    assert first["token"] == "<abcde"[word]
    assert first["effect"] == pytest.approx(
        float(found.effect()[0].flatten()[found.effect()[0].abs().argmax()])
    )
    page = found._repr_html_()
    assert "&lt;" in page
    assert "<a" not in page
    assert "TokenScores: 2 test texts" in repr(found)


def test_terms_of_a_users_own_loss():
    def own(outputs, batch):
        return terms(outputs, batch).sum(1)

    def terms(outputs, batch):
        return losses.token_losses(outputs, batch, "sum") ** 2

    train = texts()
    problem = Problem(Bigrams(), own, train)
    influence = Influence(problem, curvature=GaussNewton(problem, damping=0.1))
    with pytest.raises(ValueError, match="the parts of this loss are not known"):
        token_scores(influence, head(train, 1), [0])
    found = token_scores(influence, head(train, 1), [0], terms=terms)
    assert_close_per_row(found.values.sum(2), influence.on_loss(head(train, 1)).values[:, [0]], 1e-10)
    with pytest.raises(ValueError, match="add up to something else than the loss"):
        token_scores(influence, head(train, 1), [0], terms=losses.token_losses)


def test_what_has_no_tokens_is_refused():
    X, y = torch.eye(3, 2), torch.zeros(3)
    linear = Influence(LinearProblem(X, y, torch.zeros(2), loss=Squared(), l2=0.5))
    with pytest.raises(TypeError, match="takes the loss of a network apart"):
        token_scores(linear, (X, y), [0])
    train = texts()
    problem = trained(train)
    influence = Influence(problem, curvature=Hessian(problem))
    with pytest.raises(ValueError, match="parts of their loss"):
        token_scores(
            influence, head(train, 1), [0], side="test", measure=lambda o, b: F.relu(o.logits[:, 0, 0])
        )
    with pytest.raises(ValueError, match="side must be"):
        token_scores(influence, head(train, 1), [0], side="both")
    with pytest.raises(ValueError, match="rows are numbers of training texts"):
        token_scores(influence, head(train, 1), head(train, 2))


def test_tokens_of_a_model_of_transformers():
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=11, n_positions=8, n_embd=8, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=0
    )
    model = transformers.GPT2LMHeadModel(config).eval()
    words = torch.randint(11, (12, 8))
    train = {"input_ids": words, "attention_mask": torch.ones_like(words), "labels": words}
    problem = Problem(model, losses.next_token, train, params="transformer.h.1.*")
    influence = Influence(problem, curvature=GaussNewton(problem, damping=0.1))
    found = token_scores(influence, head(train, 2), [5, 7])
    assert_close_per_row(found.values.sum(2), influence.on_loss(head(train, 2)).values[:, [5, 7]], 1e-4)

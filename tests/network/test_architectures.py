"""Modules that look like a layer and are none, or are called otherwise: gradients and curvature are those of a loop."""

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from tests.support.cases import draw
from tests.support.compare import assert_close_per_row
from upweight import EKFAC, GaussNewton, Influence, Problem

N, T, WORDS = 9, 4, 11
GENERATOR = torch.Generator().manual_seed(0)
X, Y = draw(N, 5), torch.arange(N) % 2
TEXTS = torch.randint(WORDS, (N, T), generator=GENERATOR)


class Positions(nn.Embedding):
    """As those of BART and Marian: what comes in is a shape, or vectors, and no places."""

    def forward(self, given: Any) -> Any:
        size = given if isinstance(given, torch.Size) else given.shape[:2]
        return super().forward(torch.arange(size[1]))


class Placed(nn.Module):
    def __init__(self, by_shape: bool) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(WORDS, 3), Positions(T, 3)
        self.out, self.by_shape = nn.Linear(3, 2), by_shape

    def forward(self, words: Any) -> Any:
        vectors = self.words(words)
        return self.out((vectors + self.places(words.shape if self.by_shape else vectors)).tanh().mean(1))


class ScaleRMSNorm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(1 + 0.1 * torch.arange(5.0))

    def forward(self, hidden_states: Any, gate: Any = None) -> Any:
        scaled = hidden_states * torch.rsqrt(hidden_states.square().mean(-1, keepdim=True) + 1e-6)
        return self.weight * (scaled if gate is None else scaled * F.silu(gate))


class Normed(nn.Module):
    def __init__(self, how: str) -> None:
        super().__init__()
        self.first, self.norm, self.out, self.how = nn.Linear(5, 5), ScaleRMSNorm(), nn.Linear(5, 2), how

    def forward(self, x: Any) -> Any:
        h = self.first(x)
        if self.how == "gate by name":
            return self.out(self.norm(hidden_states=h, gate=x))
        return self.out(self.norm(hidden_states=h) if self.how == "by name" else self.norm(h, x))


class WithBias(nn.Linear):
    def forward(self, x: Any) -> Any:
        return super().forward(x), self.bias


class Pairs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.out = WithBias(5, 4), nn.Linear(4, 2)

    def forward(self, x: Any) -> Any:
        return self.out(self.first(x)[0].tanh())


class Choices(nn.Module):
    """Choices are folded into the batch, beside positions that are looked up once for all."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.places, self.out = nn.Embedding(WORDS, 3), nn.Embedding(T, 3), nn.Linear(3, 1)

    def forward(self, choices: Any) -> Any:
        folded = choices.flatten(0, 1)
        vectors = self.words(folded) + self.places(torch.arange(T)[None])
        return self.out(vectors.tanh().mean(1)).view(len(choices), -1)


class Prompted(nn.Module):
    """A learned prompt in front of each text, looked up once and repeated."""

    def __init__(self) -> None:
        super().__init__()
        self.prompt, self.words, self.out = nn.Embedding(2, 3), nn.Embedding(WORDS, 3), nn.Linear(3, 2)

    def forward(self, words: Any) -> Any:
        prompt = self.prompt(torch.arange(2)[None]).repeat(len(words), 1, 1)
        return self.out(torch.cat([prompt, self.words(words)], 1).tanh().mean(1))


CASES: dict[str, tuple[Any, Any]] = {
    "positions by shape": (lambda: Placed(True), TEXTS),
    "positions by vectors": (lambda: Placed(False), TEXTS),
    "a norm by name": (lambda: Normed("by name"), X),
    "a gated norm": (lambda: Normed("gate"), X),
    "a gated norm by name": (lambda: Normed("gate by name"), X),
    "a layer that gives two": (Pairs, X),
    "choices": (Choices, torch.randint(WORDS, (N, 2, T), generator=GENERATOR)),
    "a prompt": (Prompted, TEXTS),
}


@pytest.mark.parametrize("kind", CASES)
def test_gradients_and_curvature_are_those_of_a_loop(kind):
    make, inputs = CASES[kind]
    torch.manual_seed(0)
    model = make().double()
    problem = Problem(model, F.cross_entropy, (inputs, Y))
    params = list(model.parameters())

    def flat(value: Any) -> Any:
        found = torch.autograd.grad(value, params, retain_graph=True, materialize_grads=True)
        return torch.cat([part.flatten() for part in found])

    gradients, G = [], torch.zeros(problem.p, problem.p).double()
    for x, y in zip(inputs, Y, strict=True):
        outputs = model(x[None])
        gradients.append(flat(F.cross_entropy(outputs, y[None])))
        J = torch.stack([flat(output) for output in outputs[0]])
        probability = outputs[0].softmax(0).detach()
        G += J.T @ (probability.diag() - probability.outer(probability)) @ J / N
    wanted = torch.stack(gradients)
    assert_close_per_row(problem.train_gradients(torch.arange(N)), wanted, 1e-10)
    rows = draw(3, problem.p)
    products = torch.cat([part for _, part in problem.products(rows)], 1)
    assert_close_per_row(products, rows @ wanted.T, 1e-10)
    assert (GaussNewton(problem).matrix() - G).norm() <= 1e-10 * G.norm()
    scores = Influence(problem, curvature=GaussNewton(problem, 0.1)).on_loss((inputs[:3], Y[:3])).values
    solved = torch.linalg.solve(G + 0.1 * torch.eye(problem.p).double(), wanted[:3].T).T
    assert_close_per_row(scores, -solved @ wanted.T, 1e-9)
    assert Influence(problem, curvature=EKFAC(problem, 0.1)).on_self().values.isfinite().all()


def test_answers_are_compressed_over_blocks_of_unequal_texts():
    class Texts(Dataset[Any]):
        def __len__(self) -> int:
            return 30

        def __getitem__(self, i: int) -> Any:
            return TEXTS.flatten()[: 1 + (7 * i) % 9], torch.tensor(i % 2)

    def pad(items: list[Any]) -> Any:
        words = nn.utils.rnn.pad_sequence([x for x, _ in items], batch_first=True, padding_value=WORDS)
        return words, torch.stack([y for _, y in items])

    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.words, self.inner, self.out = nn.Embedding(WORDS + 1, 3), nn.Linear(3, 3), nn.Linear(3, 2)

        def forward(self, words: Any) -> Any:
            real = (words != WORDS)[..., None]
            return self.out((self.inner(self.words(words)).tanh() * real).sum(1) / real.sum(1))

    loader = DataLoader(Texts(), collate_fn=pad)
    problem = Problem(Masked().double(), F.cross_entropy, loader, l2=0.1, batch_size=4)
    influence = Influence(problem, curvature=EKFAC(problem, relative=0.1))
    compressed = influence.on_loss(loader, compress=1e-9).values
    assert_close_per_row(compressed, influence.on_loss(loader).values, 1e-6)

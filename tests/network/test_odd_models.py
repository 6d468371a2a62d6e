"""Models, losses and surroundings that are a little odd give the numbers of their plain twins, or a sentence."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.support.small_models import close, make
from upweight import EKFAC, GaussNewton, Hessian, Influence, Problem

WORDS = torch.randint(0, 9, (20, 4), generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(20) % 3


def scores(model, loss, data, make_curvature):
    problem = Problem(model, loss, data, l2=0.01)
    return Influence(problem, curvature=make_curvature(problem)).on_loss((data[0][:3], data[1][:3])).values


every_curvature = pytest.mark.parametrize(
    "curvature",
    [lambda p: GaussNewton(p, 0.1), lambda p: EKFAC(p, 0.1), lambda p: Hessian(p, 1.0), lambda p: None],
)


@every_curvature
def test_a_question_inside_no_grad(curvature):
    model, X, y = make()
    wanted = scores(model, F.cross_entropy, (X, y), curvature)
    with torch.no_grad():
        close(scores(model, F.cross_entropy, (X, y), curvature), wanted)


@every_curvature
def test_a_loss_in_another_precision_than_the_model(curvature):
    model, X, y = make(dtype=torch.float32)
    wanted = scores(model, F.cross_entropy, (X, y), curvature)
    close(scores(model, lambda o, t: F.cross_entropy(o.double(), t), (X, y), curvature), wanted, 1e-4)


@every_curvature
def test_sparse_gradients_are_those_of_the_plain_layer(curvature):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(9, 3), nn.Flatten(), nn.Linear(12, 3)).double()
    wanted = scores(model, F.cross_entropy, (WORDS, LABELS), curvature)
    model[0].sparse = True  # type: ignore[assignment]
    close(scores(model, F.cross_entropy, (WORDS, LABELS), curvature), wanted)
    assert model[0].sparse


class Shifted(nn.Embedding):
    """A subclass that is called with something else, as the positions of Marian are, and computes something else."""

    def forward(self, shape):
        return 2 * super().forward(torch.arange(shape[1]) + 1)


class Named(nn.Module):
    """Layers called by keyword, and one that gives a tuple."""

    def __init__(self):
        super().__init__()
        self.words, self.places = nn.Embedding(9, 4), Shifted(6, 4)
        self.norm, self.layer, self.head = nn.RMSNorm(4), nn.Linear(4, 4), Pair(4, 3)

    def forward(self, words):
        h = self.words(input=words) + self.places(words.shape)
        return self.head(torch.tanh(self.layer(input=self.norm(h))).mean(1))[0]


class Pair(nn.Linear):
    def forward(self, x):
        return super().forward(x), None


@every_curvature
def test_look_alikes_of_layers_are_found_out(curvature):
    torch.manual_seed(0)
    model = Named().double()
    mine = Problem(model, F.cross_entropy, (WORDS, LABELS), l2=0.01)
    found = scores(model, F.cross_entropy, (WORDS, LABELS), curvature)
    assert found.isfinite().all()
    close(mine.test_gradients((WORDS, LABELS)), loop(mine, model))


def loop(problem, model):
    """The gradient of every example's loss, one after the other."""
    rows = []
    for x, y in zip(WORDS, LABELS, strict=True):
        model.zero_grad()
        F.cross_entropy(model(x[None]), y[None]).backward()
        rows.append(
            torch.cat([dict(model.named_parameters())[name].grad.flatten() for name in problem.layout.names])
        )
    return torch.stack(rows)


class Bank(nn.Module):
    """Multiplies with a parameter of a dictionary that several modules share, as peft's VB-LoRA does."""

    def __init__(self, shared):
        super().__init__()
        self.shared = shared

    def forward(self, x):
        return torch.tanh(x * self.shared["scale"])


@pytest.mark.parametrize("shared", [False, True])
def test_a_module_that_stands_at_two_places_stays_as_it_is(shared):
    torch.manual_seed(0)
    bank = nn.ParameterDict({"scale": nn.Parameter(torch.randn(4))})
    middle = (
        (Bank(bank), nn.Linear(4, 4), Bank(bank)) if shared else (layer := nn.Linear(4, 4), nn.Tanh(), layer)
    )
    model = nn.Sequential(
        nn.Embedding(9, 4), nn.Flatten(), nn.Linear(16, 4), *middle, nn.Linear(4, 3)
    ).double()
    before = dict(model.named_parameters())
    problem = Problem(model, F.cross_entropy, (WORDS, LABELS), l2=0.01)
    Influence(problem).on_loss((WORDS[:2], LABELS[:2]))
    after = dict(model.named_parameters())
    assert all(after[name] is value for name, value in before.items())
    close(problem.test_gradients((WORDS, LABELS)), loop(problem, model))

"""What trainers minimise, written as a problem: its gradient is that of the trained objective, and refits agree."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, SubsetRandomSampler, TensorDataset

from tests.support.cases import draw
from upweight import Influence, Problem, verify
from upweight.losses import next_token
from upweight.network.trained import TokenSum, class_weighted, token_mean

N, WORDS, T = 60, 6, 9
SEED = torch.Generator().manual_seed(0)
TEXTS = torch.randint(WORDS, (N, T), generator=SEED)
LENGTHS = torch.randint(2, T + 1, (N,), generator=SEED)
LABELS = torch.where(torch.arange(T) < LENGTHS[:, None], TEXTS, -100)
DATA = {"input_ids": TEXTS, "labels": LABELS}
L2 = 0.02


class Bigram(nn.Module):
    """Convex, so that refits are exact."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(WORDS, WORDS).double()
        nn.init.zeros_(self.table.weight)

    def forward(self, input_ids: Any, labels: Any) -> Any:
        return {"logits": self.table(input_ids)}


def minimised(model: nn.Module, value: Any) -> nn.Module:
    settings: Any = {"max_iter": 500, "tolerance_grad": 1e-11, "tolerance_change": 1e-15}
    optimiser = torch.optim.LBFGS(model.parameters(), line_search_fn="strong_wolfe", **settings)

    def step() -> Any:
        optimiser.zero_grad()
        loss = value(model) + L2 / 2 * sum(part.square().sum() for part in model.parameters())
        loss.backward()
        return loss

    optimiser.step(step)
    return model


def by_tokens(model: Any, rows: Any) -> Any:
    """What transformers' Trainer minimises: the sum over all tokens of the batch over their number."""
    logits = model(TEXTS[rows], None)["logits"]
    labels = LABELS[rows, 1:]
    total = F.cross_entropy(logits[:, :-1].flatten(0, 1), labels.flatten(), reduction="sum")
    return total / (labels != -100).sum()


def named(loss: Any) -> Any:
    return lambda outputs, batch: loss(SimpleNamespace(**outputs), batch)


def test_a_mean_over_tokens_is_what_was_trained():
    def train(rows: Any) -> Any:
        return minimised(Bigram(), lambda model: by_tokens(model, rows))

    model = train(torch.arange(N))
    found = token_mean(DATA)
    problem = Problem(model, named(found["loss"]), DATA, l2=L2, weights=found["weights"])
    assert float(problem.gradient().norm()) < 1e-7
    test = {name: part[:4] for name, part in DATA.items()}
    checked = verify(Influence(problem), test, k=6, random=6, refit=train, measure=named(next_token))
    assert abs(checked.top.slope - 1) < 0.1
    assert checked.top.relative_error < 0.1


def test_a_mean_over_the_labels_of_tokens():
    inputs, labels = draw(20, 5, 3), torch.randint(4, (20, 5), generator=SEED)
    labels[::3, 2:] = -100
    labels[4] = -100
    model = nn.Linear(3, 4).double()
    problem = Problem(model, train=(inputs, labels), **token_mean((inputs, labels), shift=False))
    whole = F.cross_entropy(model(inputs).flatten(0, 1), labels.flatten())
    wanted = torch.cat([part.flatten() for part in torch.autograd.grad(whole, list(model.parameters()))])
    assert torch.allclose(problem.gradient(), wanted, rtol=1e-10)
    assert TokenSum()(model(inputs)[4:5], labels[4:5]).tolist() == [0]


def test_which_tokens_count():
    assert torch.equal(
        token_mean(DATA)["weights"], torch.full((N,), N / int((LENGTHS - 1).sum()), dtype=torch.float64)
    )
    first = token_mean(DATA, first=True)["weights"]
    assert torch.equal(first, torch.full((N,), N / int(LENGTHS.sum()), dtype=torch.float64))
    loader = DataLoader(TensorDataset(draw(N, 2), LABELS), sampler=SubsetRandomSampler([3, 5]))
    assert token_mean(loader)["weights"].tolist() == [2 / int(LENGTHS[[3, 5]].sum() - 2)] * 2
    with pytest.raises(ValueError, match="draws some texts more often"):
        token_mean(DataLoader(loader.dataset, sampler=[1, 1, 2]))
    with pytest.raises(ValueError, match="every label is -100"):
        token_mean({"labels": torch.full((3, 4), -100)})


@pytest.mark.parametrize("loss", [nn.CrossEntropyLoss, nn.NLLLoss])
def test_class_weights_are_what_was_trained(loss):
    X, y, weight = draw(200, 3), (torch.arange(200) % 9 == 0).long(), torch.tensor([1.0, 12.0]).double()
    weighted = loss(weight=weight)

    def net() -> Any:
        layers = [nn.Linear(3, 2)] + ([nn.LogSoftmax(1)] if loss is nn.NLLLoss else [])
        model = nn.Sequential(*layers).double()
        for part in model.parameters():
            nn.init.zeros_(part)
        return model

    def train(rows: Any) -> Any:
        return minimised(net(), lambda model: weighted(model(X[rows]), y[rows]))

    model = train(torch.arange(200))
    plain = F.nll_loss if loss is nn.NLLLoss else F.cross_entropy
    problem = Problem(model, train=(X, y), l2=L2, **class_weighted(y, weight, loss=plain))
    assert float(problem.gradient().norm()) < 1e-7
    checked = verify(Influence(problem), (X[:4], y[:4]), k=5, random=5, refit=train)
    assert abs(checked.top.slope - 1) < 0.15


@pytest.mark.parametrize(
    ("targets", "words"),
    [([0.5, 1.0], "class numbers"), ([0, 2], "from 0 to 1"), ([-1, 0], "from 0 to 1"), ([[0, 1]], r"\(n,\)")],
)
def test_targets_that_are_no_classes(targets, words):
    with pytest.raises(ValueError, match=words):
        class_weighted(targets, [1.0, 2.0])
    with pytest.raises(ValueError, match="all targets are zero"):
        class_weighted([0, 0], [0.0, 1.0])

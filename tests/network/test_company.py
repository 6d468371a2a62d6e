"""An example has one loss, whatever else is in its batch: checked on all rows, and refused where it is not so."""

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, SubsetRandomSampler, TensorDataset, WeightedRandomSampler

from tests.support.cases import draw
from upweight import GaussNewton, Influence, Problem

X, Y = draw(12, 3), torch.arange(12) % 2


class Texts(Dataset[Any]):
    def __len__(self) -> int:
        return 30

    def __getitem__(self, i: int) -> Any:
        return torch.arange(2 + i * i % 7), torch.tensor(i % 2)


def padded(items: list[Any]) -> Any:
    words = torch.nn.utils.rnn.pad_sequence([x for x, _ in items], batch_first=True, padding_value=9)
    return words, torch.stack([y for _, y in items])


class Bag(nn.Module):
    """The mean of word vectors, with or without that of padding."""

    def __init__(self, masks: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.words, self.out, self.masks = nn.Embedding(10, 4), nn.Linear(4, 2), masks

    def forward(self, words: Any) -> Any:
        vectors = self.words(words).tanh()
        counts = (words != 9)[..., None].to(vectors) if self.masks else torch.ones_like(vectors[..., :1])
        return self.out((vectors * counts).sum(1) / counts.sum(1))


def test_a_model_that_sees_the_padding_is_refused():
    loader = DataLoader(Texts(), batch_size=4, collate_fn=padded)
    with pytest.raises(
        ValueError, match=r"train: the loss of example \d+ is .* by itself and .* longer example"
    ):
        Problem(Bag(masks=False), F.cross_entropy, loader)
    answers = []
    for size in (1, 7, 30):
        problem = Problem(Bag(masks=True), F.cross_entropy, loader, batch_size=size)
        influence = Influence(problem, curvature=GaussNewton(problem, 0.01))
        answers.append(influence.on_loss(DataLoader(Texts(), collate_fn=padded)).values)
    for other in answers[1:]:
        assert (other - answers[0]).norm() <= 1e-4 * answers[0].norm()


def test_a_test_batch_whose_padding_is_seen_is_refused():
    words = torch.arange(8).view(4, 2)
    problem = Problem(Bag(masks=False), F.cross_entropy, (words, Y[:4]), l2=0.1)
    with pytest.raises(ValueError, match=r"the batch: the loss of example .* sees the padding"):
        problem.test_gradients(DataLoader(Texts(), batch_size=4, collate_fn=padded))


def test_a_sampler_says_what_was_trained_on():
    chosen, model = [9, 2, 5, 0], nn.Linear(3, 2).double()
    data, test = TensorDataset(X, Y), (X[:2], Y[:2])
    some = Problem(model, F.cross_entropy, DataLoader(data, sampler=SubsetRandomSampler(chosen)), l2=0.1)
    written = Problem(model, F.cross_entropy, (X[chosen], Y[chosen]), l2=0.1)
    scores = Influence(some).on_loss(test)
    assert torch.equal(scores.values, Influence(written).on_loss(test).values)
    assert set(scores[0].helpful(4).index) <= set(chosen)
    weights = [1.0] * 6 + [4.0] * 6
    loader = DataLoader(data, sampler=WeightedRandomSampler(weights, 12))
    drawn = Problem(model, F.cross_entropy, loader, l2=0.1)
    assert torch.allclose(drawn.weights, torch.tensor(weights).double() / 2.5)
    with pytest.raises(ValueError, match=r"weights= were given, and train is a DataLoader whose sampler"):
        Problem(model, F.cross_entropy, loader, weights=weights)


def rare(n: int = 400) -> Any:
    """Two classes, of which the second is one row in fifty and none of those that the model is tried on."""
    inputs = draw(n, 3)
    return inputs, (torch.arange(n) % 50 == 7).long()


@pytest.mark.parametrize("ordered", [False, True])
@pytest.mark.parametrize("reduction", ["mean", "own"])
def test_a_loss_that_mixes_examples_is_refused_wherever_the_example_is(ordered, reduction):
    inputs, targets = rare()
    if ordered:  # so that each block but one has one class only
        targets, index = targets.sort()
        inputs = inputs[index]
    weight = torch.tensor([1.0, 20.0]).double()
    weighted = nn.CrossEntropyLoss(weight=weight)

    def own(outputs: Any, classes: Any) -> Any:
        return weight[classes] * F.cross_entropy(outputs, classes, reduction="none") / weight[classes].mean()

    loss = weighted if reduction == "mean" else own
    with pytest.raises(ValueError, match=r"the loss mixes examples: .*upweight\.class_weighted"):
        Problem(nn.Linear(3, 2).double(), loss, (inputs, targets), batch_size=8)


def test_a_loss_that_is_not_finite_is_refused_by_its_row():
    inputs, labels = draw(40, 6, 4), torch.arange(240).view(40, 6) % 3
    labels[17] = -100

    def loss(outputs: Any, labels: Any) -> Any:
        return F.cross_entropy(outputs.flatten(0, 1), labels.flatten())

    with pytest.raises(ValueError, match=r"the loss of example 17 is nan: drop or repair it"):
        Problem(nn.Linear(4, 3).double(), loss, (inputs, labels), batch_size=5)


def test_token_means_over_texts_of_unequal_length_are_refused():
    inputs, labels = draw(40, 6, 4), torch.arange(240).view(40, 6) % 3
    labels[33, 2:] = -100  # one text alone is shorter

    def loss(outputs: Any, labels: Any) -> Any:
        return F.cross_entropy(outputs.flatten(0, 1), labels.flatten())

    with pytest.raises(ValueError, match=r"the loss mixes examples: .*upweight\.token_mean\(train\)"):
        Problem(nn.Linear(4, 3).double(), loss, (inputs, labels))


def test_losses_are_taken_once():
    calls = 0

    def counted(outputs: Any, targets: Any) -> Any:
        nonlocal calls
        calls += len(outputs)
        return F.cross_entropy(outputs, targets, reduction="none")

    problem = Problem(nn.Linear(3, 2).double(), counted, (X, Y))
    before = calls
    wanted = F.cross_entropy(problem.evaluation.model(X), Y, reduction="none")
    assert torch.allclose(problem.train_losses(), wanted)
    assert calls == before

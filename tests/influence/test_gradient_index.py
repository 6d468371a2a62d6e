"""An index of gradients answers as the influence it was built of, without the training data."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import upweight as uw
from tests.support.compare import assert_close_per_row
from upweight.influence import index_sample

N, M = 300, 7


def network(seed: int = 0) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(12, 20), nn.Tanh(), nn.Linear(20, 15), nn.Tanh(), nn.Linear(15, 4))


def data(n: int, seed: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    X = torch.randn(n, 12, generator=generator) * torch.linspace(2, 0.1, 12)
    return X, (X[:, 0] + X[:, 1] * X[:, 2]).mul(1.5).round().long().clamp(-1, 2) + 1


def influence(dtype: torch.dtype = torch.float64, **fields: Any) -> uw.Influence:
    X, y = data(N)
    model = network().to(dtype)
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(150):
        optimiser.zero_grad()
        F.cross_entropy(model(X.to(dtype)), y).backward()
        optimiser.step()
    problem = uw.Problem(model, F.cross_entropy, (X.to(dtype), y), **fields)
    return uw.Influence(problem, curvature=uw.EKFAC(problem, damping=1e-3))


@pytest.fixture(scope="module")
def asked() -> uw.Influence:
    return influence()


def new(dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, torch.Tensor]:
    X, y = data(M, seed=2)
    return X.to(dtype), y


@pytest.mark.filterwarnings("ignore::upweight.NotStationaryWarning")
@pytest.mark.parametrize(("error", "bar"), [(0.0, 1e-9), (1e-6, 1e-6), (1e-3, 1e-3), (0.02, 0.02)])
def test_values_are_those_of_on_loss_to_the_error_that_was_asked_for(
    asked: uw.Influence, tmp_path: Path, error: float, bar: float
):
    truth = asked.on_loss(new())
    found = uw.GradientIndex.build(asked, tmp_path, error=error).on_loss(new())
    assert_close_per_row(found.values, truth.values, bar)
    assert found.residual is not None
    assert float(found.residual.max()) <= 2 * bar
    assert found.drift is not None
    assert_close_per_row(found.drift, truth.drift, max(bar, 1e-6) * 50)
    again = uw.GradientIndex.open(tmp_path, asked.problem)
    assert torch.equal(again.on_loss(new()).values, found.values)
    assert len(again) == N


def linear_binary() -> tuple[uw.Influence, Any]:
    X, y = data(N)
    problem = uw.LinearProblem.fit(X.double(), y % 2, loss=uw.Logistic(), l2=1e-3)
    return uw.Influence(problem), (new()[0], new()[1] % 2)


def linear_softmax() -> tuple[uw.Influence, Any]:
    X, y = data(N)
    return uw.Influence(uw.LinearProblem.fit(X.double(), y, loss=uw.Softmax(), outputs=4, l2=1e-3)), new()


class Reader(nn.Module):
    """Words, a mixing layer at every position, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.mix, self.norm = nn.Embedding(9, 6), nn.Linear(6, 8), nn.LayerNorm(8)
        self.head = nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.norm(torch.tanh(self.mix(self.words(x)))).mean(1))


def sequences() -> tuple[uw.Influence, Any]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        x, y, model = torch.randint(0, 9, (120, 5)), torch.randint(0, 3, (120,)), Reader().double()
    problem = uw.Problem(model, F.cross_entropy, (x[:115], y[:115]))
    return uw.Influence(problem, curvature=uw.EKFAC(problem, damping=1e-2)), (x[115:], y[115:])


def small(**fields: Any) -> dict[str, Any]:
    """A network of few numbers, for what happens to files."""
    X, y = data(N)
    problem = uw.Problem(network().double(), F.cross_entropy, (X.double(), y), **fields)
    return {
        "influence": uw.Influence(problem, curvature=uw.EKFAC(problem, damping=1e-2)),
        "rows": (X.double(), y),
    }


@pytest.mark.filterwarnings("ignore::upweight.NotStationaryWarning")
@pytest.mark.parametrize("keep", ["mean", "total"])
def test_weights_penalty_and_measures_are_those_of_the_influence(tmp_path: Path, keep: Any):
    weights = torch.rand(N, generator=torch.Generator().manual_seed(3)) + 0.5
    asked = small(l2=0.01, keep=keep, weights=weights)["influence"]
    index = uw.GradientIndex.build(asked, tmp_path, error=1e-6)
    for measure in (None, uw.measures.margin):
        truth = asked.on_loss(new(), measure=measure)
        found = index.on_loss(new(), measure=measure)
        assert_close_per_row(found.values, truth.values, 1e-6)
        assert truth.drift is not None
        assert found.drift is not None
        assert_close_per_row(found.drift, truth.drift, 1e-5)
        assert found.measure == truth.measure
    assert_close_per_row(index.on_self().values.T, asked.on_self().values.T, 1e-9)
    sets = {"a": [1, 2, 3], "b": [7]}
    assert_close_per_row(
        index.of_removal(sets, new()).first_order, asked.of_removal(sets, new()).first_order, 1e-5
    )


@pytest.mark.filterwarnings("ignore::upweight.NotStationaryWarning")
def test_removals_state_by_how_much_they_may_be_off(asked: uw.Influence, tmp_path: Path):
    sets = {"many": torch.arange(0, N, 3), "few": [7, 8]}
    truth = asked.of_removal(sets, new()).first_order
    short = uw.GradientIndex.build(asked, tmp_path / "short", error=0.2)
    assert short.built_of(asked.problem)
    assert not short.built_of(uw.Problem(network(), F.cross_entropy, data(N - 1)))
    found = short.of_removal(sets, new())
    assert found.behind in found.remarks
    most = float(found.behind.rpartition(" off by ")[2].split()[0])
    off = (found.first_order - truth).abs().max()
    assert 0 < off <= 1.2 * most  # the sample is 256 of the 300 examples
    size = short.on_loss(new()).removal_effect().norm(dim=1)
    assert most <= 2 * 0.2 * float(size.max()) * 10  # sqrt(100 rows)
    whole = uw.GradientIndex.build(asked, tmp_path / "whole", error=0.0).of_removal(sets, new())
    assert " off by " not in whole.behind
    assert whole.averaged.behind == whole.behind
    assert not asked.of_removal(sets, new()).behind


@pytest.mark.filterwarnings("ignore::upweight.NotStationaryWarning")
@pytest.mark.parametrize("model", [linear_binary, linear_softmax], ids=["binary", "softmax"])
def test_linear_models_are_indexed_by_their_hessian(model: Any, tmp_path: Path):
    asked, test = model()
    truth = asked.on_loss(test)
    for error, bar in ((0.0, 1e-9), (1e-2, 1e-2)):
        index = uw.GradientIndex.build(asked, tmp_path / str(error), error=error)
        assert_close_per_row(index.on_loss(test).values, truth.values, bar)
        assert_close_per_row(index.on_self().values.T, asked.on_self().values.T, 1e-8)


@pytest.mark.filterwarnings("ignore::upweight.NotStationaryWarning")
def test_sequences_keep_the_leading_outer_products_of_each_layer(tmp_path: Path):
    asked, test = sequences()
    truth = asked.on_loss(test)
    sizes = []
    for error, bar in ((0.0, 1e-9), (1e-3, 2e-3), (0.05, 0.05)):
        index = uw.GradientIndex.build(asked, tmp_path / str(error), error=error)
        assert_close_per_row(index.on_loss(test).values, truth.values, bar)
        assert_close_per_row(index.on_self().values.T, asked.on_self().values.T, 1e-9)
        sizes.append(index.bytes_per_example)
    assert sizes[2] < sizes[1] < sizes[0]


@pytest.mark.filterwarnings("ignore::upweight.NotStationaryWarning")
@pytest.mark.parametrize(("held", "bar"), [(0, 1e-2), (1 << 26, 1e-5)])
def test_the_error_stated_of_sequences_is_that_of_the_examples_kept_whole(
    held: int, bar: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    # With none held, gradients are formed for every question, and the head, of one position, by a shorter inverse.
    monkeypatch.setattr(index_sample, "HELD", held)
    asked, test = sequences()
    index = uw.GradientIndex.build(asked, tmp_path, error=0.05)
    kept = torch.arange(0, len(index), index.store.words["every"])
    found, truth = (those.on_loss(test) for those in (index, asked))
    off, size = ((found.values - truth.values)[:, kept].norm(dim=1), truth.values[:, kept].norm(dim=1))
    torch.testing.assert_close(found.residual, off / size, rtol=bar, atol=0)

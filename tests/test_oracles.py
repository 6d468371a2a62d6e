"""Curvatures and scores against two libraries that share no code with ours: curvlinops and kronfluence.

`make oracles` installs both (the extra `oracles`) into an environment of their own and runs this; elsewhere it is
skipped. Both take sums over positions for layers that are used at many (their "expand"), and take an intercept as one
more input, as we do; curvlinops only if asked to.
"""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import TensorDataset

from tests.support.compare import assert_close_per_row
from upweight import EKFAC, Exact, GaussNewton, Hessian, Influence, Problem
from upweight.curvature.base import Curvature

N = 20
L2, DAMPING = 0.02, 1e-3
WEIGHTS = torch.arange(N) % 3 + 1.0
# Their losses are averaged over a batch, ours over batches of one: equal, also where squares are averaged over outputs.
LOSSES: dict[str, Any] = {
    "cross-entropy": nn.CrossEntropyLoss(),
    "mean squares": nn.MSELoss(),
    "summed squares": nn.MSELoss(reduction="sum"),
}


class Through(nn.Module):
    """A function of the inputs and some layers."""

    def __init__(self, function: Callable[..., torch.Tensor], *layers: nn.Module):
        super().__init__()
        self.function, self.layers = function, nn.ModuleList(layers)

    def forward(self, x):
        return self.function(x, *self.layers)


def _twice(x, layer, head):
    return head(torch.tanh(layer(torch.tanh(layer(x)))))


MODELS: dict[str, Any] = {
    "linear": lambda: (nn.Sequential(nn.Linear(4, 3)), (4,)),
    "mlp": lambda: (
        nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 4, bias=False), nn.Tanh(), nn.Linear(4, 3)),
        (4,),
    ),
    "sequence": lambda: (
        nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(15, 3)),
        (5, 4),
    ),
    "cnn": lambda: (
        nn.Sequential(
            nn.Conv2d(2, 4, 3, stride=2, padding=1),
            nn.Tanh(),
            nn.Conv2d(4, 3, 2, bias=False),
            nn.Tanh(),
            nn.Flatten(),
            nn.Linear(27, 3),
        ),
        (2, 7, 7),
    ),
    "twice": lambda: (Through(_twice, nn.Linear(4, 4), nn.Linear(4, 3)), (4,)),
}
every_loss = pytest.mark.parametrize("loss", LOSSES)
every_model = pytest.mark.parametrize("name", [name for name in MODELS if name != "twice"])


def problem_of(name: str, loss: str = "cross-entropy", **settings: Any) -> Problem:
    torch.manual_seed(3)
    model, shape = MODELS[name]()
    X = torch.randn(N, *shape).double()
    y = torch.randint(0, 3, (N,)) if loss == "cross-entropy" else torch.randn(N, 3).double()
    settings = {"l2": L2, "weights": WEIGHTS, **settings}
    return Problem(model.double(), LOSSES[loss], (X, y), **settings)


def explicit(curvature: Curvature) -> torch.Tensor:
    return curvature.operator()(torch.eye(curvature.p, dtype=torch.float64))


def added(problem: Problem) -> torch.Tensor:
    """Penalty and damping, which they do not have."""
    return (L2 + DAMPING) * torch.eye(problem.p, dtype=torch.float64)


@pytest.fixture(scope="module")
def curvlinops() -> Any:
    return pytest.importorskip("curvlinops")


@pytest.fixture
def kronfluence(monkeypatch) -> Any:
    library = pytest.importorskip("kronfluence")
    # It collects garbage 15 times a test, at 0.4 s.
    monkeypatch.setattr("kronfluence.utils.state.gc", Mock())
    return library


# -- curvlinops ----------------------------------------------------------------------------------------------------


def theirs(operator: Any, problem: Problem, twin: nn.Module | None = None, **settings: Any) -> torch.Tensor:
    """The matrix of curvlinops, from two batches; an example of weight k is there k times."""
    loss: Any = problem.evaluation.loss
    model, times = problem.evaluation.model, problem.weights.long()
    X, y = (part.repeat_interleave(times, 0) for part in problem.train_batch(torch.arange(N)))
    params = [p for name, p in model.named_parameters() if name in problem.layout.names]
    if twin is not None:
        model, params = twin, list(twin.parameters())
    A = operator(model, loss, params, [(X[:7], y[:7]), (X[7:], y[7:])], **settings)
    examples = len(X) if loss.reduction == "mean" else 1
    return A @ torch.eye(problem.p, dtype=torch.float64) * examples / N


def kronecker(operator: Any, problem: Problem, twin: nn.Module | None = None, apart: bool = False) -> Any:
    """Its Kronecker approximation of the exact ("type-2") curvature, an intercept as one more input or `apart`."""
    return theirs(operator, problem, twin, fisher_type="type-2", separate_weight_and_bias=apart)


@every_model
@every_loss
def test_hessian_is_that_of_curvlinops(curvlinops, name, loss):
    problem = problem_of(name, loss)
    wanted = theirs(curvlinops.HessianLinearOperator, problem) + added(problem)
    assert_close_per_row(Hessian(problem, DAMPING).matrix(), wanted, 1e-10)
    assert_close_per_row(explicit(Hessian(problem, DAMPING)), wanted, 1e-10)


@every_model
@every_loss
def test_gauss_newton_is_that_of_curvlinops(curvlinops, name, loss):
    problem = problem_of(name, loss)
    wanted = theirs(curvlinops.GGNLinearOperator, problem) + added(problem)
    assert_close_per_row(GaussNewton(problem, DAMPING).matrix(), wanted, 1e-10)
    assert_close_per_row(explicit(GaussNewton(problem, DAMPING)), wanted, 1e-10)


@every_model
@every_loss
def test_ekfac_is_that_of_curvlinops(curvlinops, name, loss):
    problem = problem_of(name, loss)
    wanted = kronecker(curvlinops.EKFACLinearOperator, problem) + added(problem)
    assert_close_per_row(explicit(EKFAC(problem, DAMPING)), wanted, 1e-10)


@pytest.mark.parametrize("params", ["*.weight", "0.*", "2.*"])
def test_frozen_parameters_are_frozen_there(curvlinops, params):
    """A layer whose intercept is frozen is a layer without intercept."""
    problem = problem_of("cnn", params=params)
    wanted = theirs(curvlinops.HessianLinearOperator, problem) + added(problem)
    assert_close_per_row(Hessian(problem, DAMPING).matrix(), wanted, 1e-10)
    wanted = theirs(curvlinops.GGNLinearOperator, problem) + added(problem)
    assert_close_per_row(GaussNewton(problem, DAMPING).matrix(), wanted, 1e-10)
    wanted = kronecker(curvlinops.EKFACLinearOperator, problem) + added(problem)
    assert_close_per_row(explicit(EKFAC(problem, DAMPING)), wanted, 1e-10)


@every_model
@every_loss
def test_kfac_of_curvlinops_has_our_bases(curvlinops, name, loss):
    """Its eigenvalues are products of those of two moments, ours are corrected: the two differ, but commute."""
    problem = problem_of(name, loss)
    kfac = kronecker(curvlinops.KFACLinearOperator, problem) + added(problem)
    ours = explicit(EKFAC(problem, DAMPING))
    assert_close_per_row(kfac @ ours, ours @ kfac, 1e-10)
    # One position and the same output curvature for all examples: there is nothing to correct.
    exact = name == "linear" and loss != "cross-entropy"
    assert (float((kfac - ours).norm() / ours.norm()) < 1e-10) == exact


@pytest.mark.parametrize("name", ["mlp", "sequence", "cnn"])
def test_intercepts_apart_are_another_matrix_of_equal_trace(curvlinops, name):
    """By default it gives an intercept a block of its own; in any bases the trace is the Gauss-Newton matrix's."""
    problem = problem_of(name)
    apart = kronecker(curvlinops.EKFACLinearOperator, problem, apart=True) + added(problem)
    ours = explicit(EKFAC(problem, DAMPING))
    assert float((apart - ours).norm() / ours.norm()) > 0.1
    for found in (ours, GaussNewton(problem, DAMPING).matrix()):
        assert_close_per_row(found.trace(), apart.trace(), 1e-10)


def holding(layer: Any, weight: torch.Tensor, bias: torch.Tensor | None = None) -> nn.Module:
    """The layer with these numbers."""
    with torch.no_grad():
        layer.weight.copy_(weight)
        if bias is not None:
            layer.bias.copy_(bias)
    return layer


def twins(name: str) -> tuple[nn.Module, nn.Module, torch.Tensor]:
    """A layer, the same function by layers that curvlinops reads as we do, and inputs.

    curvlinops averages a convolution's patches over its groups, where we give each group its own block; its patches are
    padded with zeros whatever the padding mode; it has neither one-dimensional convolutions nor embeddings.
    """
    layer: Any
    if name == "groups":
        layer = nn.Conv2d(4, 6, 2, groups=2, dilation=2, padding=1)
        parts = zip(layer.weight.chunk(2), layer.bias.chunk(2), strict=True)
        convs = [holding(nn.Conv2d(2, 3, 2, dilation=2, padding=1), *part) for part in parts]
        other = Through(lambda x, a, b: torch.cat([a(x[:, :2]), b(x[:, 2:])], 1), *convs)
        return layer, other, torch.randn(N, 4, 5, 5)
    if name == "circular":
        layer = nn.Conv2d(2, 3, 3, padding=1, padding_mode="circular")
        conv = holding(nn.Conv2d(2, 3, 3), layer.weight, layer.bias)
        other = Through(lambda x, conv: conv(F.pad(x, (1, 1, 1, 1), mode="circular")), conv)
        return layer, other, torch.randn(N, 2, 5, 5)
    if name == "one-dimensional":
        layer = nn.Conv1d(2, 3, 3, stride=2, padding=1)
        conv = nn.Conv2d(2, 3, (1, 3), stride=(1, 2), padding=(0, 1))
        conv = holding(conv, layer.weight[:, :, None], layer.bias)
        return layer, Through(lambda x, conv: conv(x[:, :, None]), conv), torch.randn(N, 2, 7)
    layer = nn.Embedding(7, 4)
    linear = holding(nn.Linear(7, 4, bias=False), layer.weight.T)
    other = Through(lambda words, linear: linear(F.one_hot(words, 7).double()), linear)
    return layer, other, (7 * torch.rand(N, 6).square()).long()


@pytest.mark.parametrize("name", ["groups", "circular", "one-dimensional", "embedding"])
def test_layers_that_curvlinops_lacks_equal_those_that_it_has(curvlinops, name):
    torch.manual_seed(3)
    layer, other, X = twins(name)
    head = nn.Linear(layer(X).flatten(1).shape[1], 3)
    model, twin = (nn.Sequential(first, nn.Tanh(), nn.Flatten(), head).double() for first in (layer, other))
    train = X.double() if X.is_floating_point() else X, torch.randint(0, 3, (N,))
    problem = Problem(model, LOSSES["cross-entropy"], train, l2=L2, weights=WEIGHTS)
    wanted = kronecker(curvlinops.EKFACLinearOperator, problem, twin) + added(problem)
    # The same numbers in another order: they are all different, and tell where they went.
    there = torch.cat([p.detach().flatten() for p in twin.parameters()])
    order = problem.theta.argsort()[there.argsort().argsort()]
    assert torch.equal(problem.theta[order], there)
    assert_close_per_row(explicit(EKFAC(problem, DAMPING))[order][:, order], wanted, 1e-10)


# -- kronfluence ---------------------------------------------------------------------------------------------------


def output_root(loss: Any, out: torch.Tensor) -> torch.Tensor:
    """S (b, c, c) with S S^T the Hessian of each example's loss in its outputs, written out."""
    c = out.shape[1]
    if isinstance(loss, nn.MSELoss):
        return (2 / (c if loss.reduction == "mean" else 1)) ** 0.5 * torch.eye(c).to(out).expand(
            len(out), c, c
        )
    P = out.softmax(1)
    return torch.diag_embed(P.sqrt()) - P[:, :, None] * P.sqrt()[:, None, :]


def task_of(kronfluence: Any, loss: Any) -> Any:
    """Where kronfluence would draw a label, the gradient in the outputs is column k of the output root, times sqrt(c).

    With every example there once per k, its Fisher matrix is the Gauss-Newton matrix, and nothing is random.
    """

    class Exactly(kronfluence.Task):
        # Its shorter way keeps, of a layer that is used twice, one use only.
        enable_post_process_per_sample_gradient = True

        def compute_train_loss(self, batch, model, sample=False):
            if not sample:
                return self.compute_measurement(batch, model)
            X, k = batch
            out = model(X)
            column = output_root(loss, out.detach())[torch.arange(len(X)), :, k]
            return out.shape[1] ** 0.5 * (column * out).sum()

        def compute_measurement(self, batch, model):
            X, y = batch
            return torch.stack([loss(*one) for one in zip(model(X).split(1), y.split(1), strict=True)]).sum()

    return Exactly()


def scores_of(
    kronfluence: Any, problem: Problem, test: Any, folder: Path
) -> tuple[torch.Tensor, torch.Tensor]:
    """Its scores of all training examples, for the test examples (m, n) and for themselves (n,)."""
    task, double = task_of(kronfluence, problem.evaluation.loss), torch.float64
    model = kronfluence.prepare_model(copy.deepcopy(problem.evaluation.model), task)
    analyzer = kronfluence.Analyzer(
        "oracle", model, task, cpu=True, disable_tqdm=True, output_dir=str(folder)
    )
    X, y = problem.train_batch(torch.arange(N))
    labels = TensorDataset(X.repeat_interleave(problem.c, 0), torch.arange(problem.c).repeat(N))
    names = ("activation_covariance", "gradient_covariance", "per_sample_gradient", "lambda")
    precise = {f"{name}_dtype": double for name in names}
    settings = kronfluence.FactorArguments(has_shared_parameters=True, **precise)
    analyzer.fit_all_factors("factors", labels, per_device_batch_size=7, factor_args=settings)
    precise = {f"{name}_dtype": double for name in ("per_sample_gradient", "precondition", "score")}
    settings = kronfluence.ScoreArguments(damping_factor=DAMPING, **precise)
    asked = {"train_dataset": TensorDataset(X, y), "per_device_train_batch_size": 8, "score_args": settings}
    tests = {"query_dataset": TensorDataset(*test), "per_device_query_batch_size": 3}
    analyzer.compute_pairwise_scores("pairs", "factors", **tests, **asked)
    analyzer.compute_self_scores("own", "factors", **asked)
    pairs, own = analyzer.load_pairwise_scores("pairs"), analyzer.load_self_scores("own")
    return pairs["all_modules"], own["all_modules"]


@pytest.mark.filterwarnings("ignore:.*GradScaler:FutureWarning")
@pytest.mark.parametrize(
    ("name", "loss"),
    [
        ("linear", "cross-entropy"),
        ("mlp", "cross-entropy"),
        ("mlp", "mean squares"),
        ("sequence", "summed squares"),
        ("cnn", "cross-entropy"),
        ("twice", "cross-entropy"),
    ],
)
def test_scores_by_ekfac_are_those_of_kronfluence(kronfluence, name, loss, tmp_path):
    """But for the sign: it multiplies with the inverse, and I_up,loss is minus that."""
    problem = problem_of(name, loss, l2=0.0, weights=None)
    test = problem.train_batch(torch.arange(5))
    pairs, own = scores_of(kronfluence, problem, test, tmp_path)
    influence = Influence(problem, curvature=EKFAC(problem, DAMPING), solver=Exact())
    assert_close_per_row(influence.on_loss(test).values, -pairs, 1e-9)
    assert_close_per_row(influence.on_self().values, -own[None], 1e-9)
